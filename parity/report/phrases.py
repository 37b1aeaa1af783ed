"""What is said of families, causes and checks, in words that the terminal and the Markdown summary share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from parity.report.grouping import Cause, Evidence
from parity.report.numbers import count, number
from parity.report.wording import MOST_ULP, FamilySummary, difference, ratio, recipe_of
from parity.results import CheckResult, Comparison

__all__ = [
    "NO_CAUSE",
    "also_under",
    "explained",
    "named_causes",
    "shared_reasons",
    "short",
    "sized",
    "steps",
    "worst_ratio",
    "worst_ulp",
]

NO_CAUSE = "no known difference has this signature"

MOST_RATIO = 1e4
"""Quotients of error and allowed error beyond this are not shown as numbers in the table."""

_CAPABILITY = re.compile(r"^[a-z][a-z0-9_]*: ")


def explained(cause: Cause) -> str:
    """Return how much a cause explains, and how much of that other causes explain as well."""
    text = f"{count(cause.checks)} check{'s' * (cause.checks != 1)}, "
    text += f"{count(cause.comparisons)} diverging comparison{'s' * (cause.comparisons != 1)}"
    if cause.shared:
        others = ", ".join(other or "one not attributed" for other in cause.others)
        text += f" ({'all' if cause.shared == cause.comparisons else count(cause.shared)} shared with {others})"
    return text


def steps(cause: Cause) -> list[str]:
    """Return the next steps without the command that explains the cause: the section's title gives it for all."""
    command = f": python -m parity explain {cause.id}"
    return [step.removesuffix(command) for step in cause.steps]


def named_causes(evidence: Evidence) -> str:
    """Return the ids of a check's causes, with the recipes where only some name it; empty where there is none."""
    if not any(check.findings for check in evidence.checks):
        return ""
    parts = []
    for id_, recipes in evidence.causes():
        word = NO_CAUSE if id_ is None else id_ or "one not attributed"
        parts.append(f"{word} (under {', '.join(recipes)})" if recipes else word)
    return f"cause{'s' * (len(parts) > 1)} {', '.join(parts)}"


def also_under(evidence: Evidence) -> str:
    """Return the recipes other than the first with their counts: `vitl14 (46 of 56), vitg14 (47 of 56)`."""
    return ", ".join(
        f"{recipe_of(check)} ({count(len(check.diverged))} of {count(check.compared)})" for check in evidence.checks[1:]
    )


def sized(comparison: Comparison) -> str:
    """Return the size of a difference against the allowed size, and where it is."""
    if comparison.error is None and comparison.note:
        return f"not equal; {comparison.note}"
    return "; ".join(text for text in (difference(comparison), comparison.note) if text)


def short(comparison: Comparison) -> str:
    """Return a difference in a few words, for lists."""
    if comparison.error is None:
        # The parts of a note before the last tell what was compared, which the name does too.
        return comparison.note.split("; ")[-1] or "not equal"
    return f"{number(comparison.error)}, allowed {number(comparison.allowed)}"


def shared_reasons(checks: Sequence[CheckResult]) -> dict[str, list[str]]:
    """Return the ids of checks by the reason that they share.

    A check that was not run names the capability that it lacks before the reason; it is left out where checks
    lack different ones for the same reason.
    """
    grouped: dict[str, dict[str, str]] = {}
    for check in checks:
        reason = check.reason or "no reason given"
        bare = _CAPABILITY.sub("", reason) if check.status == "not_run" else reason
        grouped.setdefault(bare, {})[check.id] = reason
    return {
        bare if len(set(reasons.values())) > 1 else next(iter(reasons.values())): list(reasons)
        for bare, reasons in grouped.items()
    }


def worst_ulp(summary: FamilySummary) -> str:
    """Return the table's `worst ulp`: a number that still says something, or what it is beyond."""
    if summary.max_ulp is None or summary.max_ulp <= MOST_ULP:
        return number(summary.max_ulp)
    return _beyond(MOST_ULP) if math.isfinite(summary.max_ulp) else "not finite"


def worst_ratio(summary: FamilySummary) -> str:
    """Return the table's `error / allowed` of the worst comparison, where the failures have a size at all."""
    extreme = summary.worst
    if summary.within < summary.compared and (extreme is None or extreme.passed or not extreme.allowed):
        return "not exact"
    value = ratio(extreme) if extreme else None
    if value is None or value <= MOST_RATIO:
        return number(value)
    return _beyond(MOST_RATIO) if math.isfinite(value) else "not finite"


def _beyond(limit: float) -> str:
    return f">1e{round(math.log10(limit))}"
