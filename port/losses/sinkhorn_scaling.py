"""Sinkhorn-Knopp in few passes: the first iteration on logarithms, the others on two vectors of factors.

Each iteration multiplies a prototype's assignments by one factor and then a sample's by another, so the assignments
after several are u_k P_mk v_m: the matrix need not be written before the end, and an iteration is two products of P
with a vector. P is what the first iteration leaves, computed on logarithms, which no logit can overflow (quirk Q8).
After it rows sum to 1 and every prototype holds at least 1 / (M K), so that no factor is infinite either.

Shapes: M samples on this rank, K prototypes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from port.losses.cross_entropy import row_chunks
from port.losses.precision import autocast_off

__all__ = ["scaling_sinkhorn_knopp", "softmax_by_rows"]


@torch.no_grad()
def scaling_sinkhorn_knopp(teacher_output: Tensor, teacher_temp: float, n_iterations: int = 3) -> Tensor:
    """Return the assignment of samples to prototypes (`dinov2/loss/dino_clstoken_loss.py:35-61`).

    The numbers of samples and of prototypes, by which official divides, cancel and are left out.

    Args:
        teacher_output: logits (M, K) of this rank, left as they are.
        teacher_temp: temperature, > 0.
        n_iterations: passes of row and column normalisation, at least 1.

    Returns:
        float32 (M, K); rows sum to 1. Finite for finite logits.
    """
    with autocast_off(teacher_output.device):
        q = teacher_output.float() / teacher_temp  # the only tensor of this size
        columns = _log_sums_over_samples(q)
        for rows in row_chunks(len(q), q.shape[1], q.device):
            q[rows] = torch.softmax(q[rows].sub_(columns), dim=1)
        if n_iterations == 1:
            return q
        of_samples = torch.ones_like(q[:, :1]).squeeze(1)
        for _ in range(n_iterations - 1):
            of_prototypes = _summed_over_ranks(torch.mv(q.t(), of_samples)).reciprocal_()
            of_samples = torch.mv(q, of_prototypes).reciprocal_()
        for rows in row_chunks(len(q), q.shape[1], q.device):
            q[rows].mul_(of_prototypes).mul_(of_samples[rows].unsqueeze(1))
        return q


def softmax_by_rows(logits: Tensor, center: Tensor, temperature: float, out: Tensor | None = None) -> Tensor:
    """Return `softmax((logits - center) / temperature)`, bit for bit, with no other tensor of its size.

    Args:
        logits: (..., K).
        center: (1, ..., K), one for all rows.
        temperature: > 0.
        out: where to write them, of the same shape and contiguous; may be `logits`.
    """
    flat, middle = logits.flatten(0, -2), center.flatten()
    dtype = torch.promote_types(logits.dtype, center.dtype)
    result = flat.new_empty(flat.shape, dtype=dtype) if out is None else out.view(flat.shape)
    for rows in row_chunks(len(flat), flat.shape[1], flat.device):
        torch.softmax((flat[rows] - middle).div_(temperature), dim=-1, out=result[rows])
    return result.view(logits.shape)


def _log_sums_over_samples(log_q: Tensor) -> Tensor:
    """Return, for each prototype, the logarithm of its sum over the samples of all ranks: (M, K) to (K,)."""
    # A rank may have no sample; it has no largest one, and must not keep others waiting.
    least = torch.finfo(log_q.dtype).min
    largest = log_q.amax(dim=0) if len(log_q) else log_q.new_full((log_q.shape[1],), least)
    if dist.is_initialized():
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    total = torch.empty_like(largest)
    for columns in row_chunks(log_q.shape[1], log_q.shape[0], log_q.device):
        total[columns] = (log_q[:, columns] - largest[columns]).exp_().sum(dim=0)
    return _summed_over_ranks(total).log_().add_(largest)


def _summed_over_ranks(partial: Tensor) -> Tensor:
    """Sum `partial` over ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(partial)
    return partial
