"""Contents of tensors: what is the same content, and what is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from parity.trace.fingerprint import CLOSE, Index, fingerprint


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_moments_are_those_of_the_definition() -> None:
    """For (1, -2, 3): rms sqrt(14 / 3), mean 2/3, mean absolute 2, cube root of 20/3, smallest -2, largest 3."""
    found = fingerprint(torch.tensor([1.0, -2.0, 3.0]))
    assert found.numel == 3
    assert found.rms == pytest.approx(math.sqrt(14 / 3), rel=1e-15)
    assert found.moments == pytest.approx((2 / 3, 2.0, (20 / 3) ** (1 / 3), -2.0, 3.0), rel=1e-15)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.t(),
        lambda x: x.reshape(8, 6),
        lambda x: x.flip(0),
        lambda x: x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))],
    ],
    ids=["transposed", "reshaped", "flipped", "permuted"],
)
def test_an_arrangement_is_the_same_content(arrange: object) -> None:
    """Moments do not depend on order, so that a rewrite in another layout is recognised."""
    x = draw(6, 8)
    assert Index([fingerprint(x)]).has(fingerprint(arrange(x)))  # type: ignore[operator] # a function of tensors


def test_the_projection_tells_arrangements_apart() -> None:
    """It weighs each element by its position: a flipped tensor has another, a reshaped one the same."""
    x = draw(6, 8)
    assert fingerprint(x).projection == fingerprint(x.reshape(48)).projection
    assert abs(fingerprint(x).projection - fingerprint(x.flip(0)).projection) > 1e-3


@pytest.mark.parametrize(
    ("change", "same"),
    [(1e-13, True), (1e-7, False), (1e-3, False)],
    ids=["rounding", "an eps", "a fault"],
)
def test_rounding_is_the_same_content_and_a_change_is_not(change: float, same: bool) -> None:
    """A relative change below 1e-9 is rounding in double precision; an eps of a norm that differs is beyond it."""
    x = draw(40, 40)
    assert Index([fingerprint(x)]).has(fingerprint(x * (1 + change))) is same
    assert 1e-13 < CLOSE < 1e-7


def test_one_element_that_differs_is_seen() -> None:
    """Also in the largest tensor of a small recipe: the mean of squares moves by more than rounding."""
    x = draw(64, 192)
    y = x.clone()
    y[3, 5] += 1.0
    assert not Index([fingerprint(x)]).has(fingerprint(y))


def test_a_sign_is_seen() -> None:
    """Even moments agree, the mean and the cube do not."""
    x = draw(5, 7)
    assert not Index([fingerprint(x)]).has(fingerprint(-x))


def test_sizes_are_never_confused() -> None:
    """Two copies have all moments of one, and are another content."""
    x = draw(5, 7)
    assert not Index([fingerprint(x)]).has(fingerprint(torch.cat((x, x))))


@pytest.mark.parametrize("value", [torch.tensor(0.0), torch.tensor(4.0), torch.zeros(3), torch.full((5,), 0.2)])
def test_constants_are_contents(value: Tensor) -> None:
    """A loss is a single number, a difference may vanish, and a gradient of a mean is constant."""
    assert not Index([]).has(fingerprint(value))
    assert Index([fingerprint(value)]).has(fingerprint(value))


def test_nothing_is_known_everywhere() -> None:
    """A tensor without elements has no content that could differ."""
    assert Index([]).has(fingerprint(torch.empty(0, 3)))


def test_order_counts_where_it_is_asked_for() -> None:
    """Indices in another order are another choice; whole numbers say that they are such."""
    x, y = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2])
    assert Index([fingerprint(x)]).has(fingerprint(y))
    assert not Index([fingerprint(x)], arranged=True).has(fingerprint(y))
    assert Index([fingerprint(x)], arranged=True).has(fingerprint(x.clone()))
    assert [fingerprint(t).discrete for t in (x, x.double(), x > 1)] == [True, False, False]


def test_not_finite_contents_match_themselves_alone() -> None:
    """A NaN is found where the other side has one too, and not where it has a number."""
    bad, good = torch.tensor([1.0, math.nan, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    assert Index([fingerprint(bad)]).has(fingerprint(bad))
    assert not Index([fingerprint(good)]).has(fingerprint(bad))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.bfloat16, torch.complex64])
def test_every_dtype_has_a_fingerprint(dtype: torch.dtype) -> None:
    """Masks, indices and half precision are contents as well; the tensor is left as it was."""
    x = (draw(3, 4) > 0).to(dtype)
    before = x.clone()
    found = fingerprint(x)
    assert found.numel == (24 if dtype.is_complex else 12)
    assert torch.equal(x, before)
