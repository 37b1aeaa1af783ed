from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from two_ranks import run_on_two_ranks

from parity.adapters.official import OfficialStack
from port.losses.sinkhorn import sinkhorn_knopp, total_from_tensor, total_from_world_size


def logits(n_rows: int, n_prototypes: int, seed: int = 0) -> torch.Tensor:
    """Return logits (n_rows, n_prototypes) small enough for the exponential (Q8)."""
    return torch.rand(n_rows, n_prototypes, generator=torch.Generator().manual_seed(seed)) - 0.5


@given(n_rows=st.integers(1, 8), n_prototypes=st.integers(1, 8), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_rows_are_probabilities(n_rows: int, n_prototypes: int, seed: int) -> None:
    """Whatever the shape: rows sum to 1 and nothing is negative."""
    assigned = sinkhorn_knopp(logits(n_rows, n_prototypes, seed), 0.07, n_rows)
    assert (assigned >= 0).all()
    torch.testing.assert_close(assigned.sum(1), torch.ones(n_rows))


def test_prototypes_are_used_equally_at_convergence() -> None:
    """After many iterations every one of 4 prototypes holds 6/4 of 6 samples."""
    assigned = sinkhorn_knopp(logits(6, 4), 0.5, 6, n_iterations=200)
    torch.testing.assert_close(assigned.sum(0), torch.full((4,), 1.5))


def test_two_samples_by_hand() -> None:
    """One iteration on [[a, 1], [1, 1]], a = 2: rows of the transposed matrix first, then columns."""
    x = torch.tensor([[math.log(2.0), 0.0], [0.0, 0.0]])
    # Prototype 0 holds (2, 1)/3, prototype 1 (1, 1)/2; then each sample is normalised.
    expected = torch.tensor([[4 / 7, 3 / 7], [2 / 5, 3 / 5]])
    torch.testing.assert_close(sinkhorn_knopp(x, 1.0, 2, n_iterations=1), expected)


def test_no_iteration_is_the_exponential() -> None:
    """Without iterations the joint softmax over samples and prototypes is left, times their number."""
    x = logits(3, 5)
    expected = 3 * torch.softmax((x / 0.1).flatten(), 0).view(3, 5)
    torch.testing.assert_close(sinkhorn_knopp(x, 0.1, 3, n_iterations=0), expected)


def test_the_number_of_samples_cancels() -> None:
    """It only scales in between, so a tensor and a number agree up to rounding."""
    x = logits(4, 6)
    by_tensor = sinkhorn_knopp(x, 0.07, torch.tensor([4]))
    torch.testing.assert_close(by_tensor, sinkhorn_knopp(x, 0.07, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_result_is_single_precision(dtype: torch.dtype) -> None:
    """Official converts to float32 first, from any type."""
    assert sinkhorn_knopp(logits(2, 3).to(dtype), 0.07, 2).dtype == torch.float32


def test_the_logits_are_left_alone_and_get_no_gradient() -> None:
    """The in-place steps work on a copy, outside the graph."""
    x = logits(2, 3).requires_grad_()
    before = x.detach().clone()
    assert not sinkhorn_knopp(x, 0.07, 2).requires_grad
    assert torch.equal(x, before)


def test_no_sample_at_all_gives_an_empty_assignment() -> None:
    """A batch without masked patches is not an error."""
    assert sinkhorn_knopp(torch.zeros(0, 3), 0.07, torch.tensor([0])).shape == (0, 3)


def in_float64(x: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return three iterations by their definition, whose exponential float64 holds up to 709."""
    q = torch.exp(x.double() / temperature)
    for _ in range(3):
        q /= q.sum(0, keepdim=True)
        q /= q.sum(1, keepdim=True)
    return q


@pytest.mark.parametrize("kind", ["dino", "ibot"])
@pytest.mark.parametrize("temperature", [0.04, 0.07])
def test_it_is_official_s_bit_for_bit_where_that_is_finite(
    official_stack: OfficialStack, kind: str, temperature: float
) -> None:
    """Logits up to the last whose exponential float32 holds: not one bit differs."""
    for seed, largest in enumerate((0.1, 1.0, 3.5)):
        x = logits(24, 16, seed) * 2 * largest
        expected = official_stack.sinkhorn(kind, x.clone(), temperature)
        n_samples = 24 if kind == "dino" else torch.tensor([24])
        assert expected.isfinite().all()
        assert torch.equal(sinkhorn_knopp(x, temperature, n_samples), expected)


@pytest.mark.parametrize("kind", ["dino", "ibot"])
def test_logits_that_overflow_official_code_do_not_overflow_here(official_stack: OfficialStack, kind: str) -> None:
    """Q8: 3.6 / 0.04 is the exponential of 90, which float32 has not; one such logit spoils all of official's."""
    x = logits(24, 16)
    x[3, 5] = 3.6
    assert not official_stack.sinkhorn(kind, x.clone(), 0.04).isfinite().any()
    n_samples = 24 if kind == "dino" else torch.tensor([24])
    assigned = sinkhorn_knopp(x, 0.04, n_samples)
    torch.testing.assert_close(assigned.double(), in_float64(x, 0.04), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("largest", "by_exponential"), [(4.0, True), (10.0, True), (50.0, False)])
def test_logits_up_to_fifty_are_assigned(largest: float, by_exponential: bool) -> None:
    """At temperature 0.04: probabilities, and float64's as far as its own exponential reaches."""
    x = logits(24, 16) * 2 * largest
    assigned = sinkhorn_knopp(x, 0.04, 24)
    assert assigned.isfinite().all()
    torch.testing.assert_close(assigned.sum(1), torch.ones(24))
    expected = in_float64(x, 0.04)
    assert bool(expected.isfinite().all()) == by_exponential
    if by_exponential:
        torch.testing.assert_close(assigned.double(), expected, rtol=1e-3, atol=1e-6)


def test_numbers_that_are_not_finite_stay_visible() -> None:
    """A NaN among the logits is no overflow: the step that it would spoil is stopped by it."""
    x = logits(4, 3)
    x[1, 1] = math.nan
    assert sinkhorn_knopp(x, 0.07, 4).isnan().any()


def test_counting_leaves_the_caller_s_tensor_alone() -> None:
    """Q11: official reduces into the batch's own tensor; here it is copied, and no group is needed."""
    n_rows = torch.tensor([5])
    total = total_from_tensor(n_rows)
    total += 1
    assert n_rows.tolist() == [5]
    assert total_from_world_size(5) == 5


def uneven(rank: int, everything: torch.Tensor) -> torch.Tensor:
    """Return what overflows, all of it on rank 0; rank 1 has no sample."""
    return 40 * everything if rank == 0 else everything[:0]


def _count_on_rank(rank: int, folder: Path) -> None:
    mine = torch.tensor([3 + rank])
    everything = logits(6, 4)
    assigned = sinkhorn_knopp(everything[3 * rank : 3 * rank + 3], 0.07, total_from_world_size(3))
    large = uneven(rank, everything)
    apart = sinkhorn_knopp(large, 0.04, total_from_tensor(torch.tensor([len(large)])))
    results = (total_from_tensor(mine), mine, total_from_world_size(3), assigned, apart)
    torch.save(results, folder / f"rank{rank}")


def test_two_ranks_assign_their_samples_together(tmp_path: Path) -> None:
    """Ranks with 3 and 4 samples count 7 (iBOT) or 2 * 3 (DINO); halves of a batch give the batch's result.

    Where one rank's logits overflow, both go to logarithms, also where one has no sample: neither waits for the other.
    """
    run_on_two_ranks(_count_on_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}") for rank in range(2)]
    assert [rank[0].tolist() for rank in ranks] == [[7], [7]]
    assert [rank[1].tolist() for rank in ranks] == [[3], [4]]
    assert [rank[2] for rank in ranks] == [6, 6]
    torch.testing.assert_close(torch.cat([rank[3] for rank in ranks]), sinkhorn_knopp(logits(6, 4), 0.07, 6))
    torch.testing.assert_close(ranks[0][4], sinkhorn_knopp(40 * logits(6, 4), 0.04, 6), rtol=1e-4, atol=1e-6)
    assert ranks[0][4].isfinite().all()
    assert ranks[1][4].shape == (0, 4)
