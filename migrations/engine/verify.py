"""The parity checks that migrations name, on a project before and after."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrations.engine.model import Migration
from migrations.engine.sides import both_sides, run_parity
from migrations.errors import UsageError

__all__ = ["Outcome", "Row", "Verification", "judge", "verify"]

MENDED, PASSES, DIVERGES, OTHER = "mended", "passes", "still diverges", "diverges for another reason"
WORSE, NOT_RUN, ERROR = "got worse", "not run", "error"


@dataclass(frozen=True)
class Outcome:
    """What one check found on one side, over all recipes.

    Attributes:
        status: passed, diverged, not_run or error.
        compared: number of comparisons.
        diverged: of them, those that failed.
        causes: ids to which parity attributes the divergence.
        reason: why it was not run, or what was raised.
    """

    status: str
    compared: int = 0
    diverged: int = 0
    causes: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.status == "diverged":
            causes = f" ({', '.join(self.causes)})" if self.causes else ""
            return f"{self.diverged:,} of {self.compared:,} diverge{causes}"
        return f"{self.compared:,} agree" if self.status == "passed" else self.status.replace("_", " ")


@dataclass(frozen=True)
class Row:
    """One check of one migration."""

    migration: str
    title: str
    check: str
    before: Outcome
    after: Outcome

    @property
    def verdict(self) -> str:
        """What the two sides say together."""
        return judge(self.migration, self.before, self.after)


@dataclass(frozen=True)
class Verification:
    """All rows, and what is compared.

    Attributes:
        rows: by migration, then check.
        before, after: where the sides come from.
        reference: the official code, in words.
    """

    rows: tuple[Row, ...]
    before: str
    after: str
    reference: str

    @property
    def exit_code(self) -> int:
        """0 if something ran and all of it passes, 1 if differences remain, 2 if an error occurred or nothing ran."""
        verdicts = {row.verdict for row in self.rows}
        if verdicts & {DIVERGES, OTHER, WORSE}:
            return 1
        if ERROR in verdicts or not verdicts & {MENDED, PASSES}:
            return 2
        return 0


def judge(migration: str, before: Outcome, after: Outcome) -> str:
    """Return a migration's verdict on a check; a check that several migrations share may diverge for another's sake."""
    if after.status == "error":
        return ERROR
    if after.status == "not_run":
        return WORSE if before.status == "passed" else NOT_RUN
    if after.status == "passed":
        return MENDED if before.status == "diverged" else PASSES
    if before.status == "passed":
        return WORSE
    known = [cause for cause in after.causes if cause.isdigit()]
    return OTHER if known and migration not in known else DIVERGES


def verify(
    path: Path,
    adapter: Path,
    migrations: Iterable[Migration],
    *,
    before: Path | None = None,
    revision: str = "HEAD",
    options: Sequence[str] = (),
) -> Verification:
    """Run the checks of some migrations on a project as it was and as it is.

    Args:
        path: the project.
        adapter: shows the project to parity, see `python -m parity explain capabilities`.
        migrations: whose checks are run.
        before: an untouched copy of the project; None for `revision` in git.
        revision: a commit.
        options: further ones of `python -m parity run`.

    Raises:
        UsageError: a path does not exist, or no migration names a check that parity knows.
        MigrationsError: a side cannot be had or gives no report.
    """
    chosen = list(migrations)
    families = _families(chosen)
    command = ["--only", ",".join(families), *options]
    with (
        both_sides(path, adapter, before, revision) as (old, new),
        tempfile.TemporaryDirectory(prefix="migrations-") as folder,
    ):
        # First as it is now: if that cannot be run, the other need not be.
        after = run_parity(new, old, command, Path(folder))
        earlier = run_parity(old, new, command, Path(folder))
        rows = [
            Row(one.id, one.title, check, outcome(earlier, check), outcome(after, check))
            for one in sorted(chosen, key=lambda one: one.id)
            for check in one.checks
        ]
        reference = after["reference"]
        said = f"facebookresearch/dinov2, {reference['version']}, {reference['identity']}"
        return Verification(tuple(rows), old.about, new.about, said)


def _families(migrations: Sequence[Migration]) -> list[str]:
    from parity.arguments import FAMILIES

    named = {check.split(".")[0].split("[")[0] for one in migrations for check in one.checks}
    if unknown := sorted(named - set(FAMILIES)):
        raise UsageError(f"checks of family {unknown[0]!r}, expected some of {', '.join(FAMILIES)}")
    if not named:
        raise UsageError("the chosen migrations name no parity check; choose others with --only")
    return [family for family in FAMILIES if family in named]


def outcome(report: Mapping[str, Any], check: str) -> Outcome:
    """Return what a report says of a check, under all its recipes.

    Args:
        report: parity's JSON, schema 1.
        check: `family.check`, with or without `[recipe]`, or a family.
    """
    found = [one for one in report["checks"] if check in (one["id"], one["id"].split("[")[0], one["family"])]
    statuses = [one["status"] for one in found]
    status = next((s for s in ("error", "diverged", "passed") if s in statuses), "not_run")
    causes = dict.fromkeys(cause for one in found for cause in one["attribution"])
    reasons = [one["reason"] for one in found if one["status"] == status and one["reason"]]
    return Outcome(
        status,
        sum(one["compared"] for one in found),
        sum(one["diverged"] for one in found),
        tuple(causes),
        reasons[0] if reasons else "",
    )
