"""What a run produces: comparisons, gathered into checks, gathered into a run.

These records are the only thing that the reports know. They hold no tensors: a comparison keeps its verdict,
its size and a few printable values, so that ten thousand of them cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "CheckResult",
    "Comparison",
    "Exhibit",
    "Finding",
    "ReferenceInfo",
    "RunResult",
    "Status",
    "Tier",
    "WaiverOutcome",
]

Tier = Literal["T0", "T1", "T2", "T4"]
"""T0 exact; T1 the algorithm, in fp64; T2 the accuracy, in fp32 against the reference's fp64; T4 the distribution of
random draws. There is no T3."""

Status = Literal["passed", "diverged", "waived", "not_run", "error"]
"""`waived`: everything in it that diverges was declared as expected, which is not the same as having passed."""


@dataclass(frozen=True)
class Comparison:
    """One named tensor or table row, compared.

    Attributes:
        name: what was compared, e.g. `gradients/backbone.blocks.3.attn.qkv.weight`.
        tier: the rule that decided.
        passed: the verdict.
        bitwise: whether the two sides are equal bit for bit (NaN equal to NaN).
        max_ulp: largest distance in units in the last place, where both are floats of one type; else None.
        error: size of the difference under the tier's rule (RMS for T1 and T2, the statistic for T4); None for T0 on
            non-floats.
        allowed: the size that the rule allows; 0.0 for T0.
        reference: the reference's value, printable (a scalar, or the element that differs most).
        subject: the subject's value at the same place.
        note: where it differs (index, name, iteration), or why it could not be compared.
        waived: the reason of the waiver that expects it to diverge; empty where there is none. `passed` stays false.
    """

    name: str
    tier: Tier
    passed: bool
    bitwise: bool
    max_ulp: float | None = None
    error: float | None = None
    allowed: float | None = None
    reference: str = ""
    subject: str = ""
    note: str = ""
    waived: str = ""


@dataclass(frozen=True)
class Finding:
    """The cause of a divergence, in words with the number that names it.

    Attributes:
        id: `0001` … `0007` (a documented difference), `Q1` … (a quirk of official code), `document` (an error
            of the document's proposed code) or `reference` (a line of the reference that is not official's).
        sentence: what was seen, with the number that names the bug.
        fix: the next step, one line.
        official: file:line of the official behaviour.
    """

    id: str
    sentence: str
    fix: str = ""
    official: str = ""


@dataclass(frozen=True)
class Exhibit:
    """Something to look at rather than read.

    Attributes:
        kind: `masks` (rows: {"title", "mask": list[list[bool]]} side by side) or
            `table` (rows: one mapping per row, all with the same keys, in order).
        title: the caption.
        rows: the content.
    """

    kind: Literal["masks", "table"]
    title: str
    rows: tuple[Mapping[str, Any], ...]


@dataclass
class CheckResult:
    """Everything that one check found under one recipe.

    Attributes:
        id: `family.check[recipe]`, stable between runs, e.g. `gradients.step[vitl14]`.
        family: one of the families of `python -m parity list`.
        level: `L0` … `L5`.
        status: passed, diverged, waived, not_run or error.
        title: one line: what is compared.
        official: official files and lines that the reference side executed.
        reason: why it was not run or ran only in part, or what was raised.
        comparisons: every comparison made.
        findings: attributions, root cause first.
        exhibits: pictures and tables.
        seconds: wall time.
    """

    id: str
    family: str
    level: str
    status: Status
    title: str
    official: tuple[str, ...] = ()
    reason: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    exhibits: list[Exhibit] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def compared(self) -> int:
        """Number of tensors and table rows compared."""
        return len(self.comparisons)

    @property
    def bitwise_equal(self) -> int:
        """Number of comparisons whose two sides are equal bit for bit."""
        return sum(c.bitwise for c in self.comparisons)

    @property
    def diverged(self) -> list[Comparison]:
        """The comparisons that failed and are not waived, in the order in which they were made."""
        return [c for c in self.comparisons if not c.passed and not c.waived]

    @property
    def waived(self) -> list[Comparison]:
        """The comparisons that failed as a waiver expects, in the order in which they were made."""
        return [c for c in self.comparisons if not c.passed and c.waived]

    @property
    def max_ulp(self) -> float | None:
        """Largest distance in units in the last place over all comparisons that have one."""
        return max((c.max_ulp for c in self.comparisons if c.max_ulp is not None), default=None)

    @property
    def worst(self) -> Comparison | None:
        """The comparison nearest to, or furthest beyond, what its rule allows."""
        judged = [c for c in self.comparisons if c.error is not None and c.allowed]
        return max(judged, key=lambda c: (c.error or 0.0) / (c.allowed or 1.0), default=None)


@dataclass(frozen=True)
class ReferenceInfo:
    """Where the official code came from and how far its identity was verified.

    Attributes:
        source: `github`, `pypi` or `path`.
        requested: what the user asked for (`auto`, `github`, `pypi` or a path).
        location: folder that holds `dinov2/`.
        version: e.g. `commit b8931f7` or `dinov2 0.0.1.dev2 (April 2023)`.
        identity: `verified`, `mixed` (official files of different commits) or `modified`.
        files_total: official training files present.
        files_verified: of these, byte-identical to a known commit.
        modified: one line per file that is not official's, with the changed lines where they can be named.
        notes: fall-backs and what they mean, loudest first.
        substitutes: what stands in for missing kernels, one line each.
    """

    source: str
    requested: str
    location: str
    version: str
    identity: str
    files_total: int
    files_verified: int
    modified: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WaiverOutcome:
    """What became of one waiver, see `parity.waivers`.

    Attributes:
        check: pattern of the checks that it is about.
        name: pattern of the comparisons that it expects to diverge.
        reason: why.
        issue: where that is discussed; may be empty.
        expires: the last day on which it holds, ISO; may be empty.
        matched: comparisons that it matches.
        waived: of these, the ones that diverged and are waived by it, or by one before it.
        problem: `expired`, `no longer needed`, `matches nothing`, or empty.
    """

    check: str
    name: str
    reason: str
    issue: str
    expires: str
    matched: int
    waived: int
    problem: Literal["", "expired", "no longer needed", "matches nothing"] = ""


@dataclass
class RunResult:
    """One run: provenance, the instrument's own check, and every check in order.

    Attributes:
        reference: the official code.
        subject: the name of the stack that was compared with it.
        checks: every check, in order.
        doctor: the self-checks of the instrument.
        environment: where the run was made.
        options: what was asked for.
        seconds: wall time.
        started: when, in UTC, e.g. `2026-11-27T02:30:00Z`; empty where that is not known.
        waivers: what became of each waiver.
    """

    reference: ReferenceInfo
    subject: str
    checks: list[CheckResult]
    doctor: list[Comparison] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    started: str = ""
    waivers: list[WaiverOutcome] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 parity, 1 divergence, 2 could not do the job (an error, an unsound instrument, nothing compared).

        A waiver that has expired or is no longer needed counts as a divergence, one that matches nothing as a job
        that could not be done.
        """
        statuses = {check.status for check in self.checks}
        problems = {waiver.problem for waiver in self.waivers}
        if "diverged" in statuses or problems & {"expired", "no longer needed"}:
            return 1
        unsound = any(not comparison.passed for comparison in self.doctor)
        if "matches nothing" in problems:
            return 2
        if unsound or "error" in statuses or not any(check.compared for check in self.checks):
            return 2
        return 0
