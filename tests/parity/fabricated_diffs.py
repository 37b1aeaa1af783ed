"""Pairs of runs that differ in one known way, written as JSON reports, for the tests of `python -m parity diff`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fabricated_results import CLOSE, EQUAL, FAR, passing

from parity.report import as_json, write_atomically
from parity.results import CheckResult, Comparison, RunResult, Status

NAMES = ("losses/a", "losses/b", "gradients/c")


def base() -> RunResult:
    """Two checks at parity: `losses.x[default]` with 3 comparisons (a, b equal; c close), `masks.y` with one."""
    equal = replace(EQUAL, tier="T1")
    comparisons = [replace(equal, name=NAMES[0]), replace(equal, name=NAMES[1]), replace(CLOSE, name=NAMES[2])]
    first = CheckResult("losses.x[default]", "losses", "L1", "passed", "x", comparisons=comparisons)
    second = CheckResult("masks.y", "masks", "L1", "passed", "y", comparisons=[replace(EQUAL, name="mask 0")])
    return replace(
        passing(), checks=[first, second], options={"quick": True, "only": []}, started="2026-01-01T00:00:00Z"
    )


def with_first(run: RunResult, *comparisons: Comparison, status: Status | None = None, reason: str = "") -> RunResult:
    """Return the run with other comparisons in its first check, whose status follows from them unless it is given."""
    own: Status = "diverged" if any(not c.passed for c in comparisons) else "passed"
    first = replace(run.checks[0], comparisons=list(comparisons), status=status or own, reason=reason)
    return replace(run, checks=[first, *run.checks[1:]])


def failing(comparison: Comparison) -> Comparison:
    """Return the comparison as it is when it fails."""
    return replace(FAR, name=comparison.name)


def written(folder: Path, before: RunResult, after: RunResult) -> tuple[Path, Path]:
    """Write both reports and return their files."""
    paths = folder / "a.json", folder / "b.json"
    for path, result in zip(paths, (before, after), strict=True):
        write_atomically(path, as_json(result))
    return paths
