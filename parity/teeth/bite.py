"""Makes the faults, rewrites and ladders of the catalogue, and gathers what the suite says of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parity.adapters.port import PortStack
from parity.checks import CHECKS, Check, Context, run_check
from parity.checks.base import Observation
from parity.errors import UsageError
from parity.recipes import SMALL_ARCHITECTURES, select_recipes
from parity.report.wording import cause_order
from parity.results import CheckResult, Comparison, ReferenceInfo
from parity.teeth.catalogue import Fault, Ladder, Rewrite
from parity.teeth.edit import applied

__all__ = ["LADDER_SIZES", "Bite", "Quiet", "bite", "climb", "first_told", "let_pass", "summary"]

SEEDS = 64
"""Masks drawn per check."""

_SEVERAL = ("losses", "modules")
"""Families whose checks make several computations, of which the first that fails is enough."""

LADDER_SIZES = tuple(10.0**-exponent for exponent in range(1, 15))
"""Relative sizes, largest first, down to where double precision ends."""


@dataclass(frozen=True)
class Bite:
    """What became of a fault.

    Attributes:
        fault: the fault.
        caught: whether a check diverged.
        named: whether the right cause was told first.
        check: the check that diverged, with its recipe; else the last one made.
        told: what was told first; where nothing diverged, why.
    """

    fault: Fault
    caught: bool
    named: bool
    check: str
    told: str


@dataclass(frozen=True)
class Quiet:
    """What became of a rewrite.

    Attributes:
        rewrite: the rewrite.
        compared: comparisons made.
        alarms: the ones that failed, and checks that ended in an error.
    """

    rewrite: Rewrite
    compared: int
    alarms: tuple[str, ...]


_MEMORY: dict[tuple[int, str], dict[str, Any]] = {}
"""What official code gave, by check: it is the same for every fault."""


class _Fork(PortStack):
    """`port` as a user's fork: it claims no equal bits, so that only sizes decide."""

    name = "fork"
    claims_bitwise = False

    def __init__(self) -> None:
        super().__init__(SMALL_ARCHITECTURES)


def bite(fault: Fault, official: Any, info: ReferenceInfo) -> Bite:
    """Make a fault, and the checks that should catch it until one does.

    Args:
        fault: of the catalogue.
        official: the official stack.
        info: where it is from.
    """
    check, told = "", "no check was made"
    with applied(*fault.edits):
        for name in fault.checks:
            result = _made(name, official, info, until_failed=True)
            check, told = result.id, first_told(result)
            if result.status == "diverged":
                return Bite(fault, True, re.search(fault.expected, told) is not None, check, told)
    return Bite(fault, False, False, check, told)


def let_pass(rewrite: Rewrite, official: Any, info: ReferenceInfo) -> Quiet:
    """Make a rewrite and all of its checks."""
    compared, alarms = 0, []
    with applied(*rewrite.edits):
        for name in rewrite.checks:
            result = _made(name, official, info, until_failed=False)
            compared += result.compared
            alarms += [f"{result.id}: {c.name} ({c.tier})" for c in result.diverged]
            if result.status not in ("passed", "diverged"):
                alarms.append(f"{result.id}: {result.status}, {result.reason}")
    return Quiet(rewrite, compared, tuple(alarms))


def climb(ladder: Ladder, official: Any, info: ReferenceInfo) -> float:
    """Return the smallest size of a fault that is caught when all larger ones are; infinity where none is."""
    smallest = float("inf")
    for size in LADDER_SIZES:
        with applied(*ladder.edits(size)):
            if _made(ladder.check, official, info, until_failed=True, trace=False).status != "diverged":
                break
        smallest = size
    return smallest


def first_told(result: CheckResult) -> str:
    """Return what a reader of the report is told first of a check: its first cause, else what differs, else why."""
    findings = sorted(result.findings, key=lambda finding: cause_order(finding.id))
    if findings:
        return f"{findings[0].id} {findings[0].sentence} [{findings[0].official}]"
    if result.diverged:
        first = result.diverged[0]
        return f"{result.id}: {first.name} ({first.note})"
    return f"{result.id} {result.status}: {result.reason}"


def _made(name: str, official: Any, info: ReferenceInfo, *, until_failed: bool, trace: bool = True) -> CheckResult:
    check_id, _, recipe = name.partition("[")
    found = [check for check in CHECKS if check.id == check_id]
    if not found:
        raise UsageError(f"unknown check {check_id!r} in the catalogue of faults; `python -m parity list` shows all")
    several = found[0].family in _SEVERAL
    check = replace(found[0], run=_until_failed(found[0])) if until_failed and several else found[0]
    chosen = next((r for r in select_recipes((recipe[:-1],), quick=True)), None) if recipe else None
    memory = _MEMORY.setdefault((id(official), name), {})
    # What is told first is what counts: no further fault is looked for behind it.
    context = Context(official, info, _Fork(), chosen, SEEDS, True, memory=memory, faults=0)
    if not trace:
        context.failed = _Forgetful()
    return run_check(check, context)


class _Forgetful(list[Any]):
    """Keeps nothing, so that nothing is run again."""

    def append(self, item: Any) -> None:
        pass


def _until_failed(whole: Check) -> Callable[[Context], Iterator[Observation]]:
    """Return the check, ended after the first computation that fails and what is found out about it."""

    def run(context: Context) -> Iterator[Observation]:
        for observation in whole.run(context):
            if context.failed and isinstance(observation, Comparison):
                return
            yield observation

    return run


def summary(bites: Sequence[Bite], quiet: Sequence[Quiet]) -> dict[str, Any]:
    """Return the numbers that the suite is judged by."""
    caught = [b for b in bites if b.caught]
    compared = sum(q.compared for q in quiet)
    alarms = sum(len(q.alarms) for q in quiet)
    return {
        "faults": len(bites),
        "caught": len(caught),
        "named": sum(b.named for b in caught),
        "rewrites": len(quiet),
        "comparisons": compared,
        "false_alarms": alarms,
        # Clopper and Pearson's upper bound at 95 % where there is none; the comparisons count as independent.
        "false_alarm_bound": 1 - 0.05 ** (1 / compared) if compared and not alarms else None,
    }
