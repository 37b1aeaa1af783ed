from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses_cross_entropy import Sizes
from torch import Tensor
from two_ranks import run_on_two_ranks

from parity.adapters.official import OfficialStack
from port.kernels import KERNELS
from port.losses import DINOLoss, cross_entropy, iBOTPatchLoss
from port.losses.sinkhorn import sinkhorn_knopp
from port.losses.sinkhorn_log import log_sinkhorn_knopp
from port.losses.sinkhorn_scaling import scaling_sinkhorn_knopp, softmax_by_rows


def logits(n_rows: int, n_prototypes: int, seed: int = 0) -> Tensor:
    """Return logits (n_rows, n_prototypes) between -0.5 and 0.5."""
    return torch.rand(n_rows, n_prototypes, generator=torch.Generator().manual_seed(seed)) - 0.5


def in_float64(x: Tensor, temperature: float, n_iterations: int = 3) -> Tensor:
    """Return the iterations by their definition, whose exponential float64 holds up to 709."""
    q = torch.exp(x.double() / temperature)
    for _ in range(n_iterations):
        q /= q.sum(0, keepdim=True)
        q /= q.sum(1, keepdim=True)
    return q


def test_two_samples_by_hand() -> None:
    """One iteration on [[a, 1], [1, 1]], a = 2: prototypes hold (2, 1)/3 and (1, 1)/2, then samples are normalised."""
    x = torch.tensor([[math.log(2.0), 0.0], [0.0, 0.0]])
    expected = torch.tensor([[4 / 7, 3 / 7], [2 / 5, 3 / 5]])
    torch.testing.assert_close(scaling_sinkhorn_knopp(x, 1.0, n_iterations=1), expected)


@pytest.mark.parametrize("chunk", [1, 7, 2**18])
@pytest.mark.parametrize("n_iterations", [1, 2, 3, 20])
def test_it_is_the_definition(monkeypatch: pytest.MonkeyPatch, chunk: int, n_iterations: int) -> None:
    """After any number of iterations, in chunks of any size, to single precision."""
    monkeypatch.setitem(cross_entropy.CHUNK_ELEMENTS, "cpu", chunk)
    x = logits(12, 16)
    assigned = scaling_sinkhorn_knopp(x, 0.07, n_iterations)
    assert assigned.dtype == torch.float32
    torch.testing.assert_close(assigned.double(), in_float64(x, 0.07, n_iterations), rtol=1e-5, atol=1e-8)


@given(n_rows=st.integers(1, 8), n_prototypes=st.integers(1, 8), seed=st.integers(0, 1000), size=st.floats(0, 1000))
@settings(max_examples=60, deadline=None)
def test_rows_are_probabilities(n_rows: int, n_prototypes: int, seed: int, size: float) -> None:
    """Whatever the shape and however large the logits: nothing is negative or infinite, and rows sum to 1."""
    assigned = scaling_sinkhorn_knopp(size * logits(n_rows, n_prototypes, seed), 0.04)
    assert assigned.isfinite().all()
    assert (assigned >= 0).all()
    torch.testing.assert_close(assigned.sum(1), torch.ones(n_rows))


@pytest.mark.parametrize("largest", [0.5, 4.0, 10.0, 50.0, 400.0])
def test_large_logits_are_assigned_as_on_logarithms(largest: float) -> None:
    """Official overflows from 3.6 on at this temperature; the form on logarithms reaches any size."""
    x = logits(24, 16) * 2 * largest
    assigned = scaling_sinkhorn_knopp(x, 0.04)
    torch.testing.assert_close(assigned, log_sinkhorn_knopp(x.double(), 0.04).float(), rtol=1e-3, atol=1e-6)


def test_a_sample_far_below_all_others_is_assigned() -> None:
    """Every prototype's exponential of it is 0 beside the others' in float32; its own logits still decide."""
    x = logits(6, 5)
    x[2] -= 100
    x[:, 3] -= 50
    assigned = scaling_sinkhorn_knopp(x, 0.04)
    torch.testing.assert_close(assigned, log_sinkhorn_knopp(x.double(), 0.04).float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["dino", "ibot"])
def test_it_is_official_s_to_rounding(official_stack: OfficialStack, kind: str) -> None:
    """Both losses hand on the fast form, and are as near to float64 as official code, within a factor of four."""
    x = logits(37, 64) * 2
    expected = in_float64(x, 0.07)
    loss = DINOLoss(64, kernels="fast") if kind == "dino" else iBOTPatchLoss(64, kernels="fast")
    count = () if kind == "dino" else (torch.tensor([37]),)
    assigned = loss.sinkhorn_knopp_teacher(x, 0.07, *count)
    ours, theirs = ((q - expected).norm().item() for q in (assigned, official_stack.sinkhorn(kind, x.clone(), 0.07)))
    assert ours <= 4 * theirs


def test_no_iteration_is_still_the_exponential() -> None:
    """Without iterations there is nothing to scale: the readable form answers in both."""
    x = logits(3, 5)
    found = [DINOLoss(5, kernels=kernels).sinkhorn_knopp_teacher(x, 0.1, 0) for kernels in KERNELS]
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_result_is_single_precision_and_the_logits_stay(dtype: torch.dtype) -> None:
    """As in the readable form, under autocast too."""
    x = logits(4, 6).to(dtype)
    before = x.clone()
    expected = sinkhorn_knopp(x, 0.07, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assigned = scaling_sinkhorn_knopp(x.requires_grad_(), 0.07)
    assert assigned.dtype == torch.float32
    assert not assigned.requires_grad
    torch.testing.assert_close(assigned, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(x, before)


def test_no_sample_and_no_number() -> None:
    """A batch without masked patches is no error, and a NaN stays visible."""
    assert scaling_sinkhorn_knopp(torch.zeros(0, 3), 0.07).shape == (0, 3)
    x = logits(4, 3)
    x[1, 1] = math.nan
    assert scaling_sinkhorn_knopp(x, 0.07).isnan().any()


def test_one_tensor_of_the_logits_size_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result; all else is a chunk or a vector. So it is with the centred softmax."""
    monkeypatch.setitem(cross_entropy.CHUNK_ELEMENTS, "cpu", 64)
    x = logits(16, 64)
    functions: tuple[Callable[[], Tensor], ...] = (
        lambda: scaling_sinkhorn_knopp(x, 0.07),
        lambda: softmax_by_rows(x, torch.zeros(1, 64), 0.07),
    )
    for function in functions:
        with Sizes() as sizes:
            function()
        assert sorted(sizes.made)[-1] == x.numel()
        assert sorted(sizes.made)[-2] <= 64


@pytest.mark.parametrize("shape", [(5, 9), (1, 5, 9), (2, 3, 9), (1, 0, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_centred_softmax_is_official_s_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """A softmax of one row hangs on no other row, so chunks change nothing; neither do shape nor type."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    center = torch.randn([*[1] * (len(shape) - 1), 9], generator=torch.Generator().manual_seed(1))
    expected = torch.softmax((x - center) / 0.04, dim=-1)
    found = softmax_by_rows(x, center, 0.04)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def uneven(rank: int, everything: Tensor) -> Tensor:
    """Return what overflows, all of it on rank 0; rank 1 has no sample."""
    return 40 * everything if rank == 0 else everything[:0]


def _assign_on_rank(rank: int, folder: Path) -> None:
    everything = logits(6, 4)
    halves = scaling_sinkhorn_knopp(everything[3 * rank : 3 * rank + 3], 0.07)
    torch.save((halves, scaling_sinkhorn_knopp(uneven(rank, everything), 0.04)), folder / f"rank{rank}")


def test_two_ranks_assign_their_samples_together(tmp_path: Path) -> None:
    """Halves of a batch give the batch's result, and a rank without a sample keeps no other waiting."""
    run_on_two_ranks(_assign_on_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}") for rank in range(2)]
    everything = logits(6, 4)
    torch.testing.assert_close(torch.cat([rank[0] for rank in ranks]), scaling_sinkhorn_knopp(everything, 0.07))
    torch.testing.assert_close(ranks[0][1], scaling_sinkhorn_knopp(40 * everything, 0.04), rtol=1e-4, atol=1e-6)
    assert ranks[1][1].shape == (0, 4)
