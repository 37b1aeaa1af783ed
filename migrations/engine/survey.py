"""Running migrations over a project: what each found, and how the project stands."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from migrations.engine.discovery import Remark, Tree
from migrations.engine.model import Finding, Level, Migration, State, overall
from migrations.engine.project import Project
from migrations.engine.registry import known_ids
from migrations.engine.suppress import Suppression, suppress, suppressions, unused

__all__ = ["Advance", "Result", "Survey", "look", "survey", "unparsable"]

Advance = Callable[[str, int, int], None]
"""`(what, done, total)`: how far the work has come."""

_WORST = (State.DIVERGED, State.PARTIAL, State.UNKNOWN, State.SUPPRESSED, State.ALIGNED, State.NOT_APPLICABLE)


def _quiet(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Result:
    """One migration in a project.

    Attributes:
        migration: which.
        findings: all of them, the worst first.
        failure: the error with which its rule ended, if it did; then there are no findings.
    """

    migration: Migration
    findings: tuple[Finding, ...]
    failure: str = ""

    @property
    def state(self) -> State:
        """How the project stands to official code in this difference."""
        return State.UNKNOWN if self.failure else overall(self.findings)

    @property
    def open(self) -> tuple[Finding, ...]:
        """The findings that are not settled and say something.

        What was not found says nothing where the same difference was found elsewhere.
        """
        if self.state.settled:
            return ()
        left = [finding for finding in self.findings if not finding.state.settled]
        return tuple(f for f in left if f.site or f.state is not State.UNKNOWN) or tuple(left)

    @property
    def main(self) -> Finding | None:
        """The finding that stands for the migration in one line."""
        for finding in (*self.open, *(f for f in self.findings if f.state is self.state), *self.findings):
            return finding
        return None

    def offers(self, *levels: Level) -> tuple[Finding, ...]:
        """Return the findings with edits at some levels."""
        return tuple(finding for finding in self.open if finding.edits and finding.level in levels)


@dataclass(frozen=True)
class Survey:
    """How a project stands.

    Attributes:
        results: of each migration, in the order of the document.
        advisory: further results, which change no exit code.
        remarks: about files and suppressions.
        seconds: that reading and looking took.
    """

    tree: Tree
    results: tuple[Result, ...]
    advisory: tuple[Result, ...]
    remarks: tuple[Remark, ...]
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether a rule ended with an error, so that the job was not done."""
        return any(result.failure for result in self.results)

    @property
    def settled(self) -> bool:
        """Whether every migration is."""
        return bool(self.results) and all(result.state.settled for result in self.results)

    @property
    def exit_code(self) -> int:
        """0 everything is settled, 1 work remains, 2 a rule failed or there was none."""
        if self.failed or not self.results:
            return 2
        return 0 if self.settled else 1

    @property
    def parsed(self) -> int:
        """How many files had to be parsed, and could be."""
        return sum(file.looked_into and not file.error for file in self.tree.project.files.values())

    @property
    def skipped(self) -> int:
        """How many files were left out: not readable, or not to be parsed where that was needed."""
        unread = {remark.path for remark in self.tree.remarks if remark.path not in self.tree.project.files}
        return len(unread) + len(unparsable(self.tree.project))


def look(migration: Migration, project: Project, by: Sequence[Suppression] = ()) -> Result:
    """Return what one migration finds, with the owner's suppressions carried out."""
    try:
        findings = suppress(migration.find(project), by)
    except Exception as error:  # one broken rule must not take the others' results along
        return Result(migration, (), f"{type(error).__name__}: {error}")
    return Result(migration, tuple(sorted(findings, key=_by_weight)))


def _by_weight(finding: Finding) -> tuple[int, bool, str, int, int]:
    site = finding.site
    place = (site.path, site.line, site.column) if site else ("", 0, 0)
    return (_WORST.index(finding.state), site is None, *place)


def survey(
    tree: Tree,
    migrations: Sequence[Migration],
    advisories: Sequence[Migration] = (),
    advance: Advance = _quiet,
    began: float | None = None,
) -> Survey:
    """Look at a project with every migration.

    Args:
        tree: the files.
        migrations: to run; the results are in the order of their ids.
        advisories: rules that only report; their edits are dropped.
        advance: is told how far the work has come.
        began: `time.monotonic()` of when the work began, before the files were read.
    """
    began = time.monotonic() if began is None else began
    everything = [*migrations, *advisories]
    by, remarks = suppressions(tree.project, [one.id for one in everything] + known_ids())
    results = []
    for done, one in enumerate(everything):
        advance(f"{one.id} {one.title}", done, len(everything))
        tree.project.watch = partial(_watch, advance, one.id, done, len(everything))
        results.append(look(one, tree.project, by))
    tree.project.watch = None
    ran = {result.migration.id for result in results if not result.failure}
    remarks += unused(by, [finding for result in results for finding in result.findings], ran)
    remarks += unparsable(tree.project)
    split = len(migrations)
    return Survey(
        tree,
        tuple(sorted(results[:split], key=lambda result: result.migration.id)),
        tuple(_report_only(result) for result in results[split:]),
        tuple(sorted({*tree.remarks, *remarks})),
        time.monotonic() - began,
    )


def unparsable(project: Project) -> list[Remark]:
    """Return a remark for each file that something asked for and that is not Python."""
    errors = {**project.errors, **{f.path: f.error for f in project.files.values() if f.looked_into and f.error}}
    return [_unparsable(path, error) for path, error in errors.items()]


def _unparsable(path: str, error: str) -> Remark:
    match = re.fullmatch(r"(?::(\d+))?: (.*)", error.removeprefix(path), re.DOTALL)
    line, text = match.groups() if match else (None, error)
    return Remark(path, f"skipped, cannot be parsed: {text}", int(line or 0))


def _watch(advance: Advance, id_: str, done: int, total: int, path: str) -> None:
    """Pass on that a migration is about to look into a file: parsing is the longest part of the work."""
    advance(f"{id_} {path}", done, total)


def _report_only(result: Result) -> Result:
    """Return an advisory's result without edits: advisories never rewrite."""
    found = tuple(replace(f, edits=(), level=Level.MANUAL) if f.edits else f for f in result.findings)
    return replace(result, findings=found)
