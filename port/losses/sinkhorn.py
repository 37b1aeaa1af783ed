"""Sinkhorn-Knopp: teacher logits to assignment probabilities that use every prototype equally.

Shapes: M samples on this rank, K prototypes. Official code has this algorithm twice; the copies differ only
in how they count the samples of all ranks.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from port.losses.sinkhorn_log import log_sinkhorn_knopp

__all__ = ["sinkhorn_knopp", "total_from_tensor", "total_from_world_size"]


def total_from_world_size(n_rows: int) -> int:
    """Count samples the way DINO does: every rank has as many (`dinov2/loss/dino_clstoken_loss.py:40`)."""
    return n_rows * (dist.get_world_size() if dist.is_initialized() else 1)


def total_from_tensor(n_rows: Tensor) -> Tensor:
    """Count samples the way iBOT does: ranks differ, so sum them (`dinov2/loss/ibot_patch_loss.py:67`).

    Official reduces into the caller's tensor, and fails without a process group (Q11); this reduces a copy.

    Args:
        n_rows: int64 (1,), samples on this rank.

    Returns:
        int64 (1,), samples on all ranks.
    """
    total = n_rows.clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


@torch.no_grad()
def sinkhorn_knopp(
    teacher_output: Tensor, teacher_temp: float, n_samples: int | Tensor, n_iterations: int = 3
) -> Tensor:
    """Return the assignment of samples to prototypes (`dinov2/loss/dino_clstoken_loss.py:35-61`).

    Official subtracts no maximum before the exponential: above a logit of 3.5 at temperature 0.04 it overflows, and
    no assignment is finite (Q8). Here the result is official's, bit for bit, wherever that is finite on all ranks,
    and is computed on logarithms elsewhere. Which one it is stays on the device, so that nothing waits for it.

    Args:
        teacher_output: logits (M, K) of this rank.
        teacher_temp: temperature, > 0.
        n_samples: samples on all ranks, from `total_from_world_size` or `total_from_tensor`; a tensor and a
            number round differently, so each loss keeps its own.
        n_iterations: passes of row and column normalisation.

    Returns:
        float32 (M, K); rows sum to 1.
    """
    Q = torch.exp(teacher_output.float() / teacher_temp).t()  # (K, M)
    K = Q.shape[0]
    Q /= _summed_over_ranks(torch.sum(Q))
    for _ in range(n_iterations):
        Q /= _summed_over_ranks(torch.sum(Q, dim=1, keepdim=True))
        Q /= K  # each prototype now holds 1/K
        Q /= torch.sum(Q, dim=0, keepdim=True)
        Q /= n_samples  # each sample now holds 1/n_samples
    Q *= n_samples
    on_logarithms = log_sinkhorn_knopp(teacher_output.float(), teacher_temp, n_iterations)
    return torch.where(_on_all_ranks(Q.isfinite().all()), Q.t(), on_logarithms)


def _on_all_ranks(condition: Tensor) -> Tensor:
    """Return whether a condition, a bool scalar, holds on every rank."""
    if not dist.is_initialized():
        return condition
    number = condition.int()
    dist.all_reduce(number, dist.ReduceOp.MIN)
    return number.bool()


def _summed_over_ranks(partial: Tensor) -> Tensor:
    """Sum `partial` over ranks, in place; without a process group this rank is all there is."""
    if dist.is_initialized():
        dist.all_reduce(partial)
    return partial
