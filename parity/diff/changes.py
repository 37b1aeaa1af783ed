"""What changed between two reports, and whether the second is worse.

Worse is: something that passed does not any more, whether it diverges, raises, is not run or is not there; or the first
run was parity and the second is not. What is new and fails is told and not counted, and so is equality of bits that was
lost within tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.diff.load import Check, Report
from parity.report.records import Record

__all__ = ["Change", "Difference", "Growth", "compare_reports"]


@dataclass(frozen=True)
class Change:
    """A comparison, by name and tier, in one report or both.

    Attributes:
        check: the check's id.
        before: as the first report has it; None where it lacks it.
        after: as the second report has it; None where it lacks it.
    """

    check: str
    before: Record | None
    after: Record | None

    @property
    def name(self) -> str:
        """What is compared, and by which rule."""
        record = self.after or self.before
        assert record is not None
        return f"{record.name} ({record.tier})"


@dataclass(frozen=True)
class Growth:
    """How much of what is allowed an error takes, before and after; `after` is larger and may be infinite."""

    change: Change
    before: float
    after: float


@dataclass(frozen=True)
class Difference:
    """Everything that differs between two reports, apart from times.

    Attributes:
        before: the first report, A.
        after: the second report, B.
        settings: provenance and options that differ: name, value in A, value in B; None where it is not there.
        gone: checks only in A.
        new: checks only in B.
        statuses: checks in both whose status differs.
        counts: checks in both of which one report names no comparisons, and whose counts differ.
        failing: comparisons that passed in A and fail in B.
        passing: comparisons that failed in A and pass in B.
        missing: comparisons that passed in A and that the check does not make in B.
        added: comparisons that only B makes, in checks that both made.
        lost: comparisons equal bit for bit in A and not in B, which pass.
        gained: comparisons equal bit for bit in B and not in A.
        growths: errors that grew in relation to what is allowed, the largest growth first.
    """

    before: Report
    after: Report
    settings: tuple[tuple[str, Any, Any], ...]
    gone: tuple[Check, ...]
    new: tuple[Check, ...]
    statuses: tuple[tuple[Check, Check], ...]
    counts: tuple[tuple[Check, Check], ...]
    failing: tuple[Change, ...]
    passing: tuple[Change, ...]
    missing: tuple[Change, ...]
    added: tuple[Change, ...]
    lost: tuple[Change, ...]
    gained: tuple[Change, ...]
    growths: tuple[Growth, ...]

    @property
    def reasons(self) -> list[str]:
        """Why B is worse than A, in words; empty where it is not."""
        gone = [check for check in self.gone if _had_something(check)]
        worse = [pair for pair in self.statuses if _is_worse(*pair)]
        fewer = [pair for pair in self.counts if pair[1].within < pair[0].within or pair[1].diverged > pair[0].diverged]
        counted = (
            (len(worse), "check", "passed and does not any more", "passed and do not any more"),
            (len(gone), "check", "is missing", "are missing"),
            (len(self.failing), "comparison", "newly fails", "newly fail"),
            (len(self.missing), "comparison", "is missing", "are missing"),
            (len(fewer), "check", "has fewer comparisons within tolerance", "have fewer comparisons within tolerance"),
        )
        reasons = [f"{n:,} {what}{'s' * (n > 1)} {many if n > 1 else one}" for n, what, one, many in counted if n]
        if self.before.exit_code == 0 and self.after.exit_code != 0:
            reasons.append(f"A was parity and B ended with exit code {self.after.exit_code}")
        return reasons

    @property
    def exit_code(self) -> int:
        """1 where B is worse than A, else 0."""
        return 1 if self.reasons else 0

    @property
    def empty(self) -> bool:
        """Whether nothing differs but times."""
        told = (self.settings, self.gone, self.new, self.statuses, self.counts, self.failing, self.passing)
        more = (self.missing, self.added, self.lost, self.gained, self.growths)
        same_causes = self.before.causes == self.after.causes and self.before.exit_code == self.after.exit_code
        return not any(told) and not any(more) and same_causes


def _had_something(check: Check) -> bool:
    return check.status == "passed" or check.within > 0


def _is_worse(before: Check, after: Check) -> bool:
    if after.status in ("not_run", "error"):
        return _had_something(before)
    return before.status == "passed" and after.status != "passed"


def compare_reports(before: Report, after: Report) -> Difference:
    """Return what differs between two reports."""
    both = [(check, after.checks[id_]) for id_, check in before.checks.items() if id_ in after.checks]
    changes = [change for pair in both if None not in (pair[0].records, pair[1].records) for change in _changes(*pair)]
    judged = [(c, c.before, c.after) for c in changes if c.before is not None and c.after is not None]
    lost = [c for c, a, b in judged if a.bitwise and not b.bitwise and b.passed]
    return Difference(
        before=before,
        after=after,
        settings=tuple(_settings(before.settings, after.settings)),
        gone=tuple(check for id_, check in before.checks.items() if id_ not in after.checks),
        new=tuple(check for id_, check in after.checks.items() if id_ not in before.checks),
        statuses=tuple(pair for pair in both if pair[0].status != pair[1].status),
        counts=tuple(pair for pair in both if None in (pair[0].records, pair[1].records) and _counts_differ(*pair)),
        failing=tuple(c for c, a, b in judged if a.passed and not b.passed),
        passing=tuple(c for c, a, b in judged if b.passed and not a.passed),
        missing=tuple(c for c in changes if c.before is not None and c.before.passed and c.after is None),
        added=tuple(c for c in changes if c.before is None),
        lost=tuple(lost),
        gained=tuple(c for c, a, b in judged if b.bitwise and not a.bitwise),
        growths=tuple(_growths(judged)),
    )


def _counts_differ(before: Check, after: Check) -> bool:
    return (before.compared, before.diverged) != (after.compared, after.diverged)


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield name, before.get(name), after.get(name)


def _changes(before: Check, after: Check) -> Iterator[Change]:
    """Yield every comparison of either; those that only A has are left out where B's check could not be made."""
    left, right = _by_name(before.records or ()), _by_name(after.records or ())
    stopped = after.status in ("not_run", "error")
    for key, record in left.items():
        other = right.get(key)
        if other is not None or not stopped:
            yield Change(before.id, record, other)
    yield from (Change(before.id, None, record) for key, record in right.items() if key not in left)


def _by_name(records: Sequence[Record]) -> dict[tuple[str, str, int], Record]:
    """Return the records by name, by tier, and by how often the two came before."""
    seen: dict[tuple[str, str], int] = {}
    named = {}
    for record in records:
        key = record.name, record.tier
        often = seen.get(key, 0)
        named[record.name, record.tier, often] = record
        seen[key] = often + 1
    return named


def _growths(judged: Sequence[tuple[Change, Record, Record]]) -> list[Growth]:
    grown = []
    for change, a, b in judged:
        before, after = _share(a), _share(b)
        if before is not None and after is not None and after > before:
            grown.append(Growth(change, before, after))
    return sorted(grown, key=lambda g: g.before - g.after)


def _share(record: Record) -> float | None:
    """Return error / allowed: zero where both sides are equal, infinite for what is not finite, None without a size."""
    if record.bitwise:
        return 0.0
    if record.error is None or not record.allowed:
        return None
    return math.inf if math.isnan(record.error) else record.error / record.allowed
