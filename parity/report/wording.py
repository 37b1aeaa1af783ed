"""The sentences and sums that every form of the report shares.

Everything here is a pure function of the records in `parity/results.py`, so that the terminal, the JSON file
and the Markdown summary cannot disagree about a number or a verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from parity.report.numbers import count, duration, number, printable
from parity.report.waivers import verdict_word, waiver_problems
from parity.results import CheckResult, Comparison, Finding, RunResult

__all__ = [
    "MOST_ULP",
    "FamilySummary",
    "attribution",
    "cause_order",
    "causes",
    "difference",
    "family_summaries",
    "largest",
    "next_step",
    "ratio",
    "recipe_of",
    "recipes_of",
    "verdict_line",
    "worst",
]


MOST_ULP = 1e6
"""Distances in units in the last place beyond this are not shown as numbers."""


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
        waived: number of comparisons that diverged as a waiver expects; none of them is within.
        waived_checks: number of checks in which everything that diverged is waived.
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
    waived: int = 0
    waived_checks: int = 0

    @property
    def verdict(self) -> str:
        """The family's verdict in words: a check that was not run is never counted as passed."""
        if self.diverged:
            word = "DIVERGED"
        elif self.errors:
            word = "ERROR"
        elif self.compared:
            word = "waived" if self.waived_checks and not self.passed else "passed"
        else:
            return "not run" if self.not_run == self.checks else "nothing compared"
        extra = [f"{self.errors} error{'s' * (self.errors > 1)}"] if self.errors and self.diverged else []
        extra += [f"{self.waived} waived"] if self.waived else []
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
    # Beyond this, ulps count exponents and signs passed through, and say nothing about the size.
    if comparison.max_ulp is not None and comparison.max_ulp <= MOST_ULP:
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
    """Return the ids named by any diverged check, in `cause_order`."""
    ids = attribution(f for check in result.checks if check.status == "diverged" for f in check.findings)
    return sorted(ids, key=cause_order)


def cause_order(id_: str) -> tuple[int, int, str]:
    """Return a sort key: an edited reference, which casts doubt on the rest, then differences, quirks, others, none."""
    quirk = re.fullmatch(r"Q(\d+)", id_)
    if quirk:
        return 2, int(quirk[1]), id_
    return 0 if id_ == "reference" else 1 if id_.isdigit() else 3 if id_ else 4, 0, id_


def next_step(finding: Finding) -> str:
    """Return the finding's own next step, else where its text is; empty where neither is known."""
    if finding.fix:
        return finding.fix
    # Only what the catalogue numbers has a text of its own.
    return f"`python -m parity explain {finding.id}`" if re.fullmatch(r"Q?\d+", finding.id) else ""


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
        waived=sum(len(check.waived) for check in checks),
        waived_checks=statuses.count("waived"),
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
    waived = sum(f.waived for f in families)
    word = verdict_word(result)
    parts = [f"{count(compared)} comparison{'s' * (compared != 1)}"] if compared else ["nothing was compared"]
    if compared:
        bitwise = sum(f.bitwise_equal for f in families)
        parts += [f"{count(within)} within tolerance", f"{count(bitwise)} bitwise equal"]
    parts += [f"{count(waived)} waived"] if waived else []
    parts.append(f"{count(not_run)} not run")
    parts += [f"{count(errors)} error{'s' * (errors != 1)}"] if errors else []
    parts += waiver_problems(result)
    if any(check.status == "diverged" for check in result.checks):
        parts.append(f"causes: {_named_causes(result)}")
    code = result.exit_code if exit_code is None else exit_code
    return printable(f"{word}: {', '.join(parts)} · {duration(result.seconds)} · exit {code}")


def _named_causes(result: RunResult) -> str:
    """Return the ids, and how many diverged checks name none of them."""
    ids = [id_ for id_ in causes(result) if id_]
    diverged = [check for check in result.checks if check.status == "diverged"]
    unnamed = sum(not any(attribution(check.findings)) for check in diverged)
    if not ids:
        return "not attributed"
    more = f"; {count(unnamed)} check{'s' * (unnamed > 1)} not attributed" if unnamed else ""
    return f"{', '.join(ids)}{more}"
