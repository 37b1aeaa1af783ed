from __future__ import annotations

import math

import pytest

from parity.tables import RELATIVE, row

NAN, INF = math.nan, math.inf


def test_equal_rows_are_bitwise_equal() -> None:
    """Without a difference the exact rule has decided, claimed or not."""
    for bitwise in (True, False):
        comparison = row("x", [0.004, 0.4], [0.004, 0.4], bitwise=bitwise)
        assert (comparison.tier, comparison.passed, comparison.bitwise) == ("T0", True, True)


def test_another_order_of_operations_passes_unless_bitwise_is_claimed() -> None:
    """0.1 + 0.2 is one unit in the last place from 0.3: twelve digits agree."""
    loose, strict = (row("x", [0.3], [0.1 + 0.2], bitwise=claimed) for claimed in (False, True))
    assert (loose.tier, loose.passed, loose.bitwise, loose.max_ulp) == ("T1", True, False, 1.0)
    assert (strict.tier, strict.passed) == ("T0", False)


@pytest.mark.parametrize(("factor", "passes"), [(0.9, True), (1.1, False)])
def test_twelve_digits_are_asked(factor: float, passes: bool) -> None:
    """The boundary is relative to the larger number: 1e-12 of it."""
    assert RELATIVE == 1e-12
    comparison = row("x", [1.0, 4.0], [1.0, 4.0 * (1 + factor * 1e-12)], bitwise=False)
    assert comparison.passed is passes
    assert comparison.error == pytest.approx(factor * 4e-12, rel=1e-3)
    assert comparison.allowed == pytest.approx(4e-12, rel=1e-9)


def test_zero_allows_nothing_but_zero() -> None:
    """A frozen rate is 0, not nearly 0; the sign of zero is no difference of rates."""
    assert not row("x", [0.0], [1e-300], bitwise=False).passed
    assert row("x", [0.0], [-0.0], bitwise=False).passed
    assert not row("x", [0.0], [-0.0], bitwise=True).passed


@pytest.mark.parametrize(
    ("reference", "subject", "passes"),
    [
        ([INF], [1.0], False),
        ([1.0], [INF], False),
        ([INF], [-INF], False),
        ([NAN], [1.0], False),
        ([1.0], [NAN], False),
        ([NAN, 0.3], [NAN, 0.1 + 0.2], True),
        ([INF, 0.3], [INF, 0.1 + 0.2], True),
    ],
)
def test_infinities_and_nan_must_agree(reference: list[float], subject: list[float], passes: bool) -> None:
    """An infinite number does not make every error small."""
    assert row("x", reference, subject, bitwise=False).passed is passes


def test_lengths_must_agree() -> None:
    """A schedule of another length fails, whatever its numbers."""
    comparison = row("lr", [1.0] * 10, [1.0] * 11, bitwise=False)
    assert not comparison.passed
    assert (comparison.reference, comparison.subject) == ("float64 (10,)", "float64 (11,)")


def test_empty_rows_are_equal() -> None:
    """Nothing differs in a row of nothing."""
    assert row("x", [], [], bitwise=False).passed


def test_short_rows_are_spelled_out() -> None:
    """Up to four numbers are shown whole, with the note beside them."""
    comparison = row("cls_token", [0.004, 0.4], [0.001, 0.4], bitwise=False, note="lr, weight decay")
    assert (comparison.reference, comparison.subject) == ("0.004, 0.4", "0.001, 0.4")
    assert comparison.note.startswith("lr, weight decay")
    assert not comparison.passed
    assert comparison.error == pytest.approx(0.003)


def test_long_rows_show_the_worst_step() -> None:
    """A schedule of 1000 steps shows the step that differs most."""
    schedule = [0.5] * 1000
    other = schedule.copy()
    other[10], other[700] = 0.6, 0.9
    comparison = row("lr", schedule, other, bitwise=False)
    assert (comparison.reference, comparison.subject) == ("0.5", "0.9")
    assert "2 of 1000 elements differ, most at [700]" in comparison.note
    assert comparison.error == pytest.approx(0.4)
