"""What is said of causes and of checks, in words that the terminal and the Markdown summary share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from parity.report.grouping import Cause, Evidence
from parity.report.numbers import count, number
from parity.report.wording import difference, recipe_of
from parity.results import CheckResult, Comparison

__all__ = ["NO_CAUSE", "also_under", "explained", "named_causes", "shared_reasons", "short", "sized"]

NO_CAUSE = "no known difference has this signature"

_CAPABILITY = re.compile(r"^[a-z][a-z0-9_]*: ")


def explained(cause: Cause) -> str:
    """Return how much a cause explains, and how much of that other causes explain as well."""
    text = f"{count(cause.checks)} check{'s' * (cause.checks != 1)}, "
    text += f"{count(cause.comparisons)} diverging comparison{'s' * (cause.comparisons != 1)}"
    if cause.shared:
        others = ", ".join(other or "one not attributed" for other in cause.others)
        text += f" ({'all' if cause.shared == cause.comparisons else count(cause.shared)} shared with {others})"
    return text


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
        # A note says where elements differ, which for values without a size says more than that they do.
        return comparison.note
    return "; ".join(text for text in (difference(comparison), comparison.note) if text)


def short(comparison: Comparison) -> str:
    """Return a difference in a few words, for lists."""
    if comparison.error is None:
        return comparison.note or "not equal"
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
