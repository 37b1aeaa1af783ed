"""Forks of `port` with one thing changed, and one check made of them: what the tests of the checks share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from parity.adapters.port import PortStack
from parity.checks import CHECKS, Check, Context, run_check
from parity.checks.base import Observation
from parity.recipes import RECIPES, SMALL_ARCHITECTURES
from parity.results import CheckResult, Comparison, ReferenceInfo

__all__ = ["Change", "Fork", "assert_no_alarm", "assert_seen", "check", "fork", "port"]

Change = Callable[[pytest.MonkeyPatch], None]
"""Changes code of `port` for one test; official code runs none of it, so that only the subject changes."""

_INFO = ReferenceInfo("pypi", "pypi", "", "dinov2 0.0.1.dev2", "verified", 44, 44)


def port() -> PortStack:
    """`port` itself, which claims official's operations in official's order."""
    return PortStack(SMALL_ARCHITECTURES)


class Fork(PortStack):
    """A stack that claims no bit, so that a fault must be found by the sizes of differences alone."""

    name = "fork"
    claims_bitwise = False

    def __init__(self) -> None:
        super().__init__(SMALL_ARCHITECTURES)


def fork(**capabilities: Any) -> Fork:
    """Return a fork of which some capabilities are other functions, called without `self`."""
    changed = Fork()
    for name, function in capabilities.items():
        assert hasattr(changed, name), name
        setattr(changed, name, function)
    return changed


def check(
    official: Any,
    subject: Any,
    name: str,
    recipe: str | None = None,
    *,
    seeds: int = 32,
    quick: bool = True,
    to_first: bool = False,
) -> CheckResult:
    """Make one check, `family.name`, under a recipe or none; with `to_first` only to the first failure."""
    (found,) = (c for c in CHECKS if c.id == name)
    if to_first:
        found = replace(found, run=_to_first_failure(found))
    chosen = next(r for r in RECIPES if r.name == recipe) if recipe else None
    return run_check(found, Context(official, _INFO, subject, chosen, seeds, quick))


def _to_first_failure(whole: Check) -> Callable[[Context], Iterator[Observation]]:
    def run(context: Context) -> Iterator[Observation]:
        for observation in whole.run(context):
            yield observation
            if isinstance(observation, Comparison) and not observation.passed:
                return

    return run


def assert_seen(result: CheckResult, first: str = "", finding: str | None = None, words: str = "") -> None:
    """Assert that the check diverged, first at a name that the pattern `first` finds, and says why.

    Args:
        result: of the check.
        first: searched for in the name of the first comparison that failed.
        finding: id of a finding that must be there; None where none is asked for.
        words: part of that finding's sentence.
    """
    assert result.status == "diverged", (result.status, result.reason, result.compared)
    failed: Comparison = result.diverged[0]
    assert re.search(first, failed.name), [c.name for c in result.diverged][:12]
    if finding is not None:
        sentences = [f.sentence for f in result.findings if f.id == finding]
        assert any(words in sentence for sentence in sentences), result.findings


def assert_no_alarm(result: CheckResult) -> None:
    """Assert that everything was compared and passed, and that nothing is accused."""
    assert result.status == "passed", (result.reason, [(c.name, c.tier, c.note) for c in result.diverged][:12])
    assert result.findings == []
