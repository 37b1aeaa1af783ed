"""Sinkhorn-Knopp on logarithms, for logits whose exponential float32 cannot hold (quirk Q8).

Shapes: M samples on this rank, K prototypes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["log_sinkhorn_knopp"]


@torch.no_grad()
def log_sinkhorn_knopp(teacher_output: Tensor, teacher_temp: float, n_iterations: int = 3) -> Tensor:
    """Return the assignment of samples to prototypes, as `sinkhorn_knopp` defines it, for logits of any size.

    Subtracting a maximum before the exponential would avoid its overflow alone: a prototype whose logits all lie
    more than 100 temperatures below that maximum would hold 0 and be divided by 0. The numbers of samples and of
    prototypes, by which `sinkhorn_knopp` divides, cancel and are left out.

    Args:
        teacher_output: logits (M, K) of this rank, at least float32.
        teacher_temp: temperature, > 0.
        n_iterations: passes of row and column normalisation, at least 1.

    Returns:
        (M, K), in the type of the logits; rows sum to 1.
    """
    log_q = teacher_output / teacher_temp
    for _ in range(n_iterations):
        log_q -= _logsumexp_over_samples(log_q)
        log_q = torch.log_softmax(log_q, dim=1)
    return log_q.exp_()


def _logsumexp_over_samples(log_q: Tensor) -> Tensor:
    """Return, for each prototype, the logarithm of its sum over the samples of all ranks: (M, K) to (1, K)."""
    if not dist.is_initialized():
        return torch.logsumexp(log_q, dim=0, keepdim=True)
    # A rank may have no sample, such as no masked patch; it has no largest one, and must not keep others waiting.
    least = torch.finfo(log_q.dtype).min
    largest = log_q.amax(dim=0, keepdim=True) if len(log_q) else log_q.new_full((1, log_q.shape[1]), least)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    total = (log_q - largest).exp_().sum(dim=0, keepdim=True)
    dist.all_reduce(total)
    return total.log_() + largest
