"""The sentences and sums that every form of the report shares.

Everything here is a pure function of the records in `parity/results.py`, so that the terminal, the JSON file
and the Markdown summary cannot disagree about a number or a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from parity.report.numbers import count, duration, number, printable
from parity.results import CheckResult, Comparison, Finding, ReferenceInfo, RunResult

__all__ = [
    "FamilySummary",
    "attribution",
    "causes",
    "difference",
    "family_summaries",
    "largest",
    "next_step",
    "provenance",
    "ratio",
    "recipe_of",
    "recipes_of",
    "verdict_line",
    "worst",
]


@dataclass(frozen=True)
class FamilySummary:
    """One row of the table of families.

    Attributes:
        family: the family's name.
        checks: number of checks, whatever their status.
        passed: number of checks that passed.
        diverged: number of checks that diverged.
        not_run: number of checks that were not run.
        errors: number of checks that raised.
        compared: number of tensors and table rows compared.
        within: of these, the ones within tolerance.
        bitwise_equal: of these, the ones equal bit for bit.
        max_ulp: largest distance in units in the last place; None where nothing has one.
        worst: the comparison nearest to, or furthest beyond, what its rule allows.
        seconds: wall time of the family's checks.
    """

    family: str
    checks: int
    passed: int
    diverged: int
    not_run: int
    errors: int
    compared: int
    within: int
    bitwise_equal: int
    max_ulp: float | None
    worst: Comparison | None
    seconds: float

    @property
    def verdict(self) -> str:
        """The family's verdict in words: a check that was not run is never counted as passed."""
        if self.diverged:
            word = "DIVERGED"
        elif self.errors:
            word = "ERROR"
        elif self.compared:
            word = "passed"
        else:
            return "not run" if self.not_run == self.checks else "nothing compared"
        extra = [f"{self.errors} error{'s' * (self.errors > 1)}"] if self.errors and self.diverged else []
        extra += [f"{self.not_run} not run"] if self.not_run else []
        return ", ".join([word, *extra])


def largest(values: Iterable[float | None]) -> float | None:
    """Return the largest value, where NaN counts as larger than anything; None where there is none."""
    known = [v for v in values if v is not None]
    return max(known, key=lambda v: math.inf if math.isnan(v) else v, default=None)


def ratio(comparison: Comparison) -> float | None:
    """Return error / allowed; infinite beyond an exact rule or for NaN, None where there is no size."""
    if comparison.error is None:
        return None if comparison.passed else math.inf
    if math.isnan(comparison.error):
        return 0.0 if comparison.passed else math.inf
    if comparison.allowed:
        return comparison.error / comparison.allowed
    return 0.0 if comparison.passed else math.inf


def worst(comparisons: Iterable[Comparison]) -> Comparison | None:
    """Return the comparison nearest to, or furthest beyond, what its rule allows.

    Failures come before passes; among comparisons of equal ratio the larger error wins.
    """
    judged = [c for c in comparisons if c.error is not None]
    return max(
        judged, key=lambda c: (not c.passed, ratio(c) or 0.0, _sortable(c.error), c.allowed or 0.0), default=None
    )


def _sortable(error: float | None) -> float:
    return math.inf if error is None or math.isnan(error) else error


def difference(comparison: Comparison) -> str:
    """Return the size of a difference against the allowed size, in words."""
    if comparison.error is None:
        return "not equal, where equality is required" if comparison.tier == "T0" else "no size: see the note"
    text = f"{number(comparison.error)}, allowed {number(comparison.allowed)}"
    if comparison.allowed and math.isfinite(comparison.error):
        text += f" ({number(comparison.error / comparison.allowed)} times as much)"
    if comparison.max_ulp is not None:
        text += f", {number(comparison.max_ulp)} ulp"
    return text


def recipe_of(check: CheckResult) -> str:
    """Return the recipe in brackets at the end of a check's id; empty where it has none."""
    return check.id[check.id.index("[") + 1 : -1] if check.id.endswith("]") and "[" in check.id else ""


def recipes_of(result: RunResult) -> list[str]:
    """Return the recipes that the run's checks name, in the order in which they appear."""
    return list(dict.fromkeys(recipe for check in result.checks if (recipe := recipe_of(check))))


def attribution(findings: Iterable[Finding]) -> list[str]:
    """Return the ids of the findings, each once, root cause first."""
    return list(dict.fromkeys(finding.id for finding in findings))


def causes(result: RunResult) -> list[str]:
    """Return the ids named by any diverged check, sorted: numbered differences before the rest."""
    ids = attribution(f for check in result.checks if check.status == "diverged" for f in check.findings)
    return sorted(ids, key=lambda name: (not name.isdigit(), name))


def next_step(finding: Finding) -> str:
    """Return the finding's own next step, else where its text is."""
    return finding.fix or f"`python -m parity explain {finding.id}`"


def provenance(reference: ReferenceInfo) -> str:
    """Return the first line of every report: which official code, from where, verified how far."""
    version = reference.version.removeprefix("dinov2 ")
    place = f"path {reference.location}" if reference.source == "path" else reference.source
    verified = (
        f"{reference.files_verified} of {reference.files_total} files verified byte-identical to official's"
        if reference.identity != "verified"
        else f"{reference.files_verified} of {reference.files_total} files verified byte-identical"
    )
    if reference.identity == "modified" or reference.modified:
        named = reference.modified[0] if reference.modified else "files that are not official's"
        others = len(reference.modified) - 1
        more = f" and {others} more file{'s' * (others > 1)}" if others > 0 else ""
        verified = f"MODIFIED: {named}{more}; {verified}"
    elif reference.identity != "verified":
        verified = f"{reference.identity.upper()}: official files of different commits; {verified}"
    return printable(f"reference: facebookresearch/dinov2 {version} from {place}, {verified}")


def family_summaries(result: RunResult) -> list[FamilySummary]:
    """Return one summary per family, in the order in which the families were run."""
    families = dict.fromkeys(check.family for check in result.checks)
    return [_summarise(family, [c for c in result.checks if c.family == family]) for family in families]


def _summarise(family: str, checks: list[CheckResult]) -> FamilySummary:
    comparisons = [c for check in checks for c in check.comparisons]
    statuses = [check.status for check in checks]
    return FamilySummary(
        family=family,
        checks=len(checks),
        passed=statuses.count("passed"),
        diverged=statuses.count("diverged"),
        not_run=statuses.count("not_run"),
        errors=statuses.count("error"),
        compared=len(comparisons),
        within=sum(c.passed for c in comparisons),
        bitwise_equal=sum(c.bitwise for c in comparisons),
        max_ulp=largest(c.max_ulp for c in comparisons),
        worst=worst(comparisons),
        seconds=sum(check.seconds for check in checks),
    )


def verdict_line(result: RunResult, exit_code: int | None = None) -> str:
    """Return the last line of the report.

    Args:
        result: the run.
        exit_code: the code that the process will exit with, where it is not the run's own (a report that
            could not be written).
    """
    families = family_summaries(result)
    compared = sum(f.compared for f in families)
    within = sum(f.within for f in families)
    not_run = sum(f.not_run for f in families)
    errors = sum(f.errors for f in families)
    word = {0: "PARITY", 1: "DIVERGED"}.get(result.exit_code, "NO VERDICT")
    parts = [f"{count(compared)} comparison{'s' * (compared != 1)}"] if compared else ["nothing was compared"]
    if compared:
        bitwise = sum(f.bitwise_equal for f in families)
        parts += [f"{count(within)} within tolerance", f"{count(bitwise)} bitwise equal"]
    parts.append(f"{count(not_run)} not run")
    parts += [f"{count(errors)} error{'s' * (errors != 1)}"] if errors else []
    if result.exit_code == 1:
        parts.append(f"causes: {', '.join(causes(result)) or 'not attributed'}")
    code = result.exit_code if exit_code is None else exit_code
    return printable(f"{word}: {', '.join(parts)} · {duration(result.seconds)} · exit {code}")
