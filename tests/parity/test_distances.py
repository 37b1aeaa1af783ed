"""Distances of tensors: what is not finite, and short cuts that must not change a result."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from parity import distances

NAN, INF = math.nan, math.inf


def tensor(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the values as a vector."""
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (tensor(1, 2), tensor(1, 2), (0.0, 0.0)),
        (tensor(1, 2), tensor(4, -2), (math.sqrt(12.5), 4.0)),
        (tensor(1, 2, NAN), tensor(4, -2, 1), (math.sqrt(12.5), 4.0)),
        (tensor(1, 2, INF), tensor(4, -2, INF), (math.sqrt(12.5), 4.0)),
        (tensor(1, 2, INF), tensor(4, -2, 7), (math.sqrt(12.5), 4.0)),
        (tensor(NAN), tensor(NAN), (0.0, 0.0)),
        (tensor(INF, 3), tensor(INF, 3), (0.0, 0.0)),
        (tensor(), tensor(), (0.0, 0.0)),
    ],
)
def test_distance_is_that_of_the_elements_finite_on_both_sides(
    left: Tensor, right: Tensor, expected: tuple[float, float]
) -> None:
    """RMS and largest element; 0 where nothing is left."""
    assert distances.distance(left, right) == expected


def test_distance_between_types_is_in_double_precision() -> None:
    """A third in single precision is some way off a third in double precision."""
    third = tensor(1 / 3)
    expected = abs(float(np.float32(1 / 3)) - 1 / 3)
    assert distances.distance(third.float(), third) == (expected, expected)
    assert expected > 0


def test_elements_whose_sum_overflows_are_finite() -> None:
    """The sum of large elements is infinite, and they are not."""
    left = tensor(1.5e308, 1.5e308)
    assert distances.same_where_not_finite(left, tensor(0, 0))
    assert distances.distance(left, left.clone()) == (0.0, 0.0)
    assert distances.rms(tensor(1e30, 1e30, dtype=torch.float32) * 1e8) == pytest.approx(1e38)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (tensor(3, 4), math.sqrt(12.5)),
        (tensor(3, NAN, 4, -INF), math.sqrt(12.5)),
        (tensor(NAN), 0.0),
        (tensor(), 0.0),
    ],
)
def test_rms_is_that_of_the_finite_elements(values: Tensor, expected: float) -> None:
    """What is not finite is left out; 0 where nothing is left."""
    assert distances.rms(values) == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (tensor(1, 2), tensor(3, 4), True),
        (tensor(NAN, INF, -INF, 1), tensor(NAN, INF, -INF, 2), True),
        (tensor(NAN, 1), tensor(1, 1), False),
        (tensor(1, 1), tensor(1, INF), False),
        (tensor(INF), tensor(-INF), False),
        (tensor(INF), tensor(NAN), False),
        (tensor(INF, -INF), tensor(-INF, INF), False),  # both sums are NaN
        (tensor(INF), tensor(INF, dtype=torch.float32), True),
    ],
)
def test_what_is_not_finite_must_stand_in_the_same_places(left: Tensor, right: Tensor, expected: bool) -> None:
    """NaN at NaN, and each infinity at its own."""
    assert distances.same_where_not_finite(left, right) is expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (tensor(1, 2, 3), tensor(1, 2.5, 1), ("3", "1")),
        (tensor(1, NAN, 3), tensor(1, 2, 0), ("nan", "2")),
        (tensor(5, 6), tensor(5, 6), ("5", "5")),
        (tensor(), tensor(), ("empty", "empty")),
    ],
)
def test_the_pair_that_differs_most_is_spelled(left: Tensor, right: Tensor, expected: tuple[str, str]) -> None:
    """NaN on one side is furthest apart; of equal tensors the first element stands for all."""
    assert distances.worst_pair(left, right) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bits_decide_and_nan_equals_nan(dtype: type[np.floating]) -> None:
    """Zeros of two signs differ, as do neighbours; any NaN equals any other, also beside what differs."""
    one = dtype(1)
    left = np.array([[0.0, np.nan, one], [one, np.nan, 5]], dtype)
    right = np.array([[-0.0, np.nan, np.nextafter(one, dtype(2))], [one, -np.nan, np.nan]], dtype)
    assert distances.differs(left, right).tolist() == [[True, False, True], [False, False, True]]
    assert not distances.differs(left.T, left.T.copy()).any()
    assert distances.differs(np.asarray(one), np.asarray(-one)).shape == ()
    assert distances.equal(torch.from_numpy(left), torch.from_numpy(left.copy()))
    assert not distances.equal(torch.from_numpy(left), torch.from_numpy(right))
