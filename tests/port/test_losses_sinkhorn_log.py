from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from two_ranks import run_on_two_ranks

from port.losses.sinkhorn import sinkhorn_knopp
from port.losses.sinkhorn_log import log_sinkhorn_knopp

torch.set_num_threads(1)


def logits(n_rows: int, n_prototypes: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Return normally distributed logits (n_rows, n_prototypes)."""
    return scale * torch.randn(n_rows, n_prototypes, generator=torch.Generator().manual_seed(seed))


def test_two_samples_by_hand() -> None:
    """One iteration on [[a, 1], [1, 1]], a = 2: prototypes first, (2, 1)/3 and (1, 1)/2, then samples."""
    x = torch.tensor([[math.log(2.0), 0.0], [0.0, 0.0]])
    expected = torch.tensor([[4 / 7, 3 / 7], [2 / 5, 3 / 5]])
    torch.testing.assert_close(log_sinkhorn_knopp(x, 1.0, 1), expected)


@pytest.mark.parametrize(("n_rows", "n_prototypes"), [(1, 1), (1, 7), (6, 1), (6, 7), (40, 33)])
@pytest.mark.parametrize("temperature", [0.04, 0.07, 1.0])
def test_it_is_official_s_where_that_is_finite(n_rows: int, n_prototypes: int, temperature: float) -> None:
    """Logits small enough for an exponential in float32: the same assignments, which round differently."""
    x = logits(n_rows, n_prototypes, scale=0.5)
    expected = sinkhorn_knopp(x, temperature, n_rows)
    assert expected.isfinite().all()
    torch.testing.assert_close(log_sinkhorn_knopp(x, temperature), expected, rtol=5e-5, atol=1e-7)


def test_large_logits_do_not_overflow() -> None:
    """Where the exponential has no number left, float64's does; both agree, in float32's digits."""
    x = logits(30, 20, scale=4.0)
    assert not torch.exp(x / 0.04).isfinite().all()
    q = torch.exp(x.double() / 0.04)
    for _ in range(3):
        q /= q.sum(0, keepdim=True)
        q /= q.sum(1, keepdim=True)
    torch.testing.assert_close(log_sinkhorn_knopp(x, 0.04), q.float(), rtol=1e-3, atol=1e-6)


def test_a_prototype_far_below_the_others_is_used_too() -> None:
    """All samples prefer prototype 1 by 10 / 0.04 = 250, of which float32 knows no exponential; balance needs both."""
    x = torch.tensor([[0.0, 10.0], [0.1, 10.0]])
    assigned = log_sinkhorn_knopp(x, 0.04, 100)
    torch.testing.assert_close(assigned.sum(0), torch.ones(2))
    # A difference of 0.1 / 0.04 is left between the samples, as without the constant: p / (1 - p) = e^(-1.25).
    expected = 1 / (1 + math.exp(1.25))
    assert float(assigned[0, 0]) == pytest.approx(expected, rel=1e-4)


def test_the_logits_are_left_alone_and_get_no_gradient() -> None:
    """The in-place steps work on a copy, outside the graph, even at temperature 1."""
    x = logits(3, 4).requires_grad_()
    before = x.detach().clone()
    assert not log_sinkhorn_knopp(x, 1.0).requires_grad
    assert torch.equal(x, before)


def test_precision_is_kept() -> None:
    """float64 stays; rows sum to 1 to its last digits."""
    assigned = log_sinkhorn_knopp(logits(5, 6).double(), 0.07)
    assert assigned.dtype == torch.float64
    torch.testing.assert_close(assigned.sum(1), torch.ones(5, dtype=torch.float64), rtol=1e-14, atol=0)


def _assign_on_rank(rank: int, folder: Path) -> None:
    mine = logits(8, 5, scale=3.0)[[slice(0, 3), slice(3, 8)][rank]]
    torch.save(log_sinkhorn_knopp(mine, 0.04), folder / f"rank{rank}")


def test_two_ranks_assign_their_samples_together(tmp_path: Path) -> None:
    """Three and five samples on two ranks are assigned as the eight on one."""
    run_on_two_ranks(_assign_on_rank, tmp_path)
    assigned = torch.cat([torch.load(tmp_path / f"rank{rank}") for rank in range(2)])
    torch.testing.assert_close(assigned, log_sinkhorn_knopp(logits(8, 5, scale=3.0), 0.04), rtol=1e-4, atol=1e-7)
