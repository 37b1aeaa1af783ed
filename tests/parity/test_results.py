from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
from fabricated_results import CLOSE, EQUAL, FAR, VERIFIED

from parity.results import CheckResult, Comparison, RunResult, Status


def _check(status: Status, *comparisons: Comparison) -> CheckResult:
    return CheckResult("losses.x[default]", "losses", "L1", status, "x", comparisons=list(comparisons))


def _code(*checks: CheckResult) -> int:
    return RunResult(VERIFIED, "port", list(checks)).exit_code


def test_a_check_counts_its_comparisons() -> None:
    """Compared, equal bit for bit, failed in order, and the largest distance in ulp."""
    other = replace(FAR, name="second")
    check = _check("diverged", EQUAL, FAR, CLOSE, other)
    assert (check.compared, check.bitwise_equal) == (4, 1)
    assert check.diverged == [FAR, other]
    assert check.max_ulp == 1.2e9


def test_without_ulp_there_is_no_largest() -> None:
    """Masks have no units in the last place."""
    assert _check("passed", replace(EQUAL, max_ulp=None)).max_ulp is None
    assert _check("passed").max_ulp is None


def test_the_worst_is_relative_to_what_is_allowed() -> None:
    """An error of 2 of 1 allowed is worse than 5 of 10, and exact comparisons allow nothing to be relative to."""
    small, large = replace(CLOSE, error=2.0, allowed=1.0), replace(CLOSE, error=5.0, allowed=10.0)
    assert _check("diverged", large, EQUAL, small).worst is small
    assert _check("passed", EQUAL).worst is None
    assert _check("not_run").worst is None


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ([_check("passed", EQUAL)], 0),
        ([_check("passed", EQUAL), _check("not_run")], 0),
        ([_check("passed", EQUAL), _check("diverged", FAR)], 1),
        ([_check("error"), _check("diverged", FAR)], 1),
        ([_check("passed", EQUAL), _check("error")], 2),
        ([_check("not_run"), _check("not_run")], 2),
        ([], 2),
    ],
)
def test_exit_codes(checks: list[CheckResult], code: int) -> None:
    """0 parity, 1 divergence, 2 an error or nothing compared; never parity by default."""
    assert _code(*checks) == code


def test_records_are_not_shared_or_changed() -> None:
    """Each check has lists of its own, and a comparison once made stays."""
    first, second = _check("passed"), _check("passed")
    first.findings.clear()
    first.comparisons.append(EQUAL)
    assert second.comparisons == []
    with pytest.raises(FrozenInstanceError):
        EQUAL.passed = False  # type: ignore[misc] # the assignment is what must fail
