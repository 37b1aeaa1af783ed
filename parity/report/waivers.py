"""What every form of the report says of waivers, and the verdict's word, in which waived is never passed."""

from __future__ import annotations

from collections import Counter

from parity.report.numbers import count
from parity.results import RunResult, WaiverOutcome

__all__ = ["told_waiver", "verdict_word", "waiver_problems", "waiver_title"]


def verdict_word(result: RunResult) -> str:
    """Return the verdict in a word: with waived divergences it is no parity, and a waiver alone may be what fails."""
    if result.exit_code == 0:
        return "PARITY BUT FOR WAIVERS" if any(check.waived for check in result.checks) else "PARITY"
    if result.exit_code == 1:
        return "DIVERGED" if any(check.status == "diverged" for check in result.checks) else "WAIVERS FAILED"
    return "NO VERDICT"


def waiver_problems(result: RunResult) -> list[str]:
    """Return how many waivers failed, by what failed them: `1 waiver no longer needed`."""
    problems = Counter(waiver.problem for waiver in result.waivers if waiver.problem)
    return [f"{count(number)} waiver{'s' * (number != 1)} {problem}" for problem, number in problems.items()]


def waiver_title(result: RunResult) -> str:
    """Return how many waivers there are and how many comparisons they waive."""
    waived = sum(len(check.waived) for check in result.checks)
    return f"{count(len(result.waivers))}, {count(waived)} comparison{'s' * (waived != 1)} waived, which is not passed"


def told_waiver(waiver: WaiverOutcome) -> str:
    """Return one waiver and what became of it, in one line."""
    about = "; ".join(part for part in (waiver.reason, waiver.issue) if part)
    return f"{waiver.check} {waiver.name}: {_became(waiver)} ({about})"


def _became(waiver: WaiverOutcome) -> str:
    if waiver.problem == "expired":
        return f"EXPIRED on {waiver.expires}: renew it with its reason, or mend the divergence"
    if waiver.problem == "no longer needed":
        return f"NO LONGER NEEDED, {count(waiver.matched)} of {count(waiver.matched)} pass: delete it"
    if waiver.problem == "matches nothing":
        return "MATCHES NOTHING, no comparison of that check has such a name: correct or delete it"
    until = f" until {waiver.expires}" if waiver.expires else ""
    if not waiver.matched:
        return f"not judged in this run{until}"
    return f"waives {count(waiver.waived)} of {count(waiver.matched)}{until}"
