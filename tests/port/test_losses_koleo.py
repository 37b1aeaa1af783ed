from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from port.losses import KoLeoLoss


def test_a_triangle_by_hand() -> None:
    """Unit vectors at 0, 60 and 180 degrees: distances to the nearest are 1, 1 and sqrt(3)."""
    points = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)], [-1.0, 0.0]])
    assert KoLeoLoss()(points).item() == pytest.approx(-math.log(3) / 6, abs=1e-6)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_length_does_not_matter(seed: int, scale: float) -> None:
    """Features are normalised first."""
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(KoLeoLoss()(x * scale), KoLeoLoss()(x))


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_it_is_the_log_of_the_smallest_distance(seed: int) -> None:
    """Minus the mean log of each point's smallest Euclidean distance to another."""
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(seed))
    unit = x / x.norm(dim=1, keepdim=True)
    nearest = (torch.cdist(unit, unit) + 10 * torch.eye(6)).min(1).values
    torch.testing.assert_close(KoLeoLoss()(x), -nearest.log().mean(), rtol=1e-4, atol=1e-5)


def test_neighbours_are_others() -> None:
    """The largest cosine off the diagonal."""
    unit = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    assert KoLeoLoss().pairwise_NNs_inner(unit).tolist() == [1, 2, 1]


def test_exactly_opposite_points_find_themselves() -> None:
    """Q4: the diagonal is -1, the cosine of opposite points too; official gives 8.42 instead of -log 2."""
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert KoLeoLoss().pairwise_NNs_inner(opposite).tolist() == [0, 0]
    assert KoLeoLoss()(opposite).item() == pytest.approx(8.42, abs=0.01)


def test_duplicates_are_finite() -> None:
    """Two equal points cost about -log(1e-8 * (sqrt(D) + 1)), and their gradient is finite."""
    x = torch.tensor([[3.0, 4.0], [3.0, 4.0]], requires_grad=True)
    loss = KoLeoLoss()(x)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8 * (math.sqrt(2) + 1)), rel=1e-4)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_gradient_pushes_neighbours_apart() -> None:
    """A step against the gradient lowers the loss, and neighbours get further away."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = KoLeoLoss()(x)
    (gradient,) = torch.autograd.grad(loss, x)
    with torch.no_grad():
        assert KoLeoLoss()(x - 0.01 * gradient) < loss


def test_autocast_is_off_inside() -> None:
    """Under bf16 autocast the value is that of single precision; official turns off only CUDA's."""
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = KoLeoLoss()(x)
    assert torch.equal(inside, KoLeoLoss()(x))


def test_it_has_no_state() -> None:
    """Official checkpoints hold nothing for KoLeo."""
    assert KoLeoLoss().state_dict() == {}
