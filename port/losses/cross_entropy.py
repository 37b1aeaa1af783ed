"""Cross-entropy of soft targets as log-sum-exp minus a product, with its gradient written by hand.

For logits s, temperature T, targets t and a row's weight w, the cross-entropy

    -sum_k t_k log_softmax(s / T)_k  =  logsumexp(s / T) sum_k t_k  -  <t, s> / T

needs no log-softmax, and its gradient is w / T (softmax(s / T) sum_k t_k - t). Both are made in chunks of rows that
stay in a cache, so that nothing of the logits' size is made but the gradient.

Shapes: n students, B rows, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from port.derivatives import refuse_second_derivative
from port.losses.precision import autocast_off, widened

__all__ = ["first_rows", "row_chunks", "soft_cross_entropy"]

CHUNK_ELEMENTS = {"cpu": 2**18}
"""Elements of a chunk by type of device: on a CPU a megabyte in float32, which a core's own cache holds."""
LARGE_CHUNK = 2**24
"""Elements of a chunk elsewhere: enough for a GPU to be busy, and 64 MB in float32."""


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, temperature: float, *, weights: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Return the weighted sum of all rows' cross-entropies: `scale * sum_nb weights_b * cross_entropy(s_nb, t_b)`.

    Args:
        logits: (n, B, K); half precision is computed in float32, autocast or not.
        targets: (B, K), of any sum; every student has the same. No gradient reaches them.
        temperature: of the logits, > 0.
        weights: (B,); None for 1. No gradient reaches them.
        scale: a common factor.

    Returns:
        Scalar, float32 or float64. It can be differentiated once: to ask for a graph of its gradient is a RuntimeError.

    Raises:
        ValueError: the shapes do not fit, or a gradient of targets or weights is wanted.
    """
    if logits.dim() != 3 or targets.shape != logits.shape[1:] or (weights is not None and len(weights) != len(targets)):
        given = None if weights is None else tuple(weights.shape)
        raise ValueError(
            f"logits {tuple(logits.shape)}, targets {tuple(targets.shape)} and weights {given}; "
            "expected (n, B, K), (B, K) and (B,) or None"
        )
    if targets.requires_grad or (weights is not None and weights.requires_grad):
        raise ValueError("targets or weights require a gradient, which only kernels=official_order gives; detach them")
    keep = logits.requires_grad and torch.is_grad_enabled()
    with autocast_off(logits.device):
        loss: Tensor = _SoftCrossEntropy.apply(logits, targets, weights, temperature, scale, keep)
    return loss


def first_rows(tensor: Tensor, n_rows: int | None) -> Tensor:
    """Return the first rows, and the tensor itself where these are all: a slice's gradient is a copy.

    Args:
        tensor: (R, ...).
        n_rows: None for all.
    """
    return tensor if n_rows is None or n_rows == len(tensor) else tensor[:n_rows]


def row_chunks(n_rows: int, row_elements: int, device: torch.device, elements: int | None = None) -> Iterator[slice]:
    """Yield slices of rows, in order, of at least one row.

    Args:
        n_rows: of all slices together.
        row_elements: of each row.
        device: where they are.
        elements: of a slice, about; None for what suits the device.
    """
    if elements is None:
        elements = CHUNK_ELEMENTS.get(device.type, LARGE_CHUNK)
    length = max(elements // max(row_elements, 1), 1)
    for start in range(0, n_rows, length):
        yield slice(start, min(start + length, n_rows))


class _SoftCrossEntropy(torch.autograd.Function):
    """The loss of `soft_cross_entropy`.

    Where a gradient will be wanted, exponentials are written where it will stand, so that they are not computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        temperature: float,
        scale: float,
        keep: bool,
    ) -> Tensor:
        n_students, n_rows, width = logits.shape
        dtype = torch.promote_types(widened(logits[:0]).dtype, targets.dtype)
        # Half precision cannot hold the exponentials: backward computes them again.
        kept = torch.empty_like(logits) if keep and logits.dtype == dtype else None
        factor = 1 / temperature if temperature else math.inf  # a loss that is not finite, as a division gives
        largest = logits.new_empty((n_students, n_rows), dtype=dtype)
        total, product = torch.empty_like(largest), torch.empty_like(largest)
        mass = targets.sum(-1, dtype=dtype)
        for rows in row_chunks(n_rows, n_students * width, logits.device):
            s, t = logits[:, rows].to(dtype), targets[rows].to(dtype)
            work = torch.mul(s, t)
            product[:, rows] = work.sum(-1)
            largest[:, rows] = s.amax(-1).mul_(factor)
            powers = work if kept is None else kept[:, rows]
            torch.add(-largest[:, rows].unsqueeze(-1), s, alpha=factor, out=powers).exp_()
            total[:, rows] = powers.sum(-1)
        ctx.save_for_backward(logits, targets, weights, largest, total, mass)
        ctx.kept, ctx.factor, ctx.scale = kept, factor, scale
        losses = mass * (total.log() + largest) - factor * product
        return (losses if weights is None else losses * weights).sum() * scale

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        refuse_second_derivative()
        return _gradient(ctx, upstream), None, None, None, None, None


def _gradient(ctx: Any, upstream: Tensor) -> Tensor:
    """Return the gradient by the logits (n, B, K)."""
    logits, targets, weights, largest, total, mass = ctx.saved_tensors
    dtype = total.dtype
    row = upstream.to(dtype) * (ctx.scale * ctx.factor)
    row = (row.expand(len(targets)) if weights is None else row * weights.to(dtype)).unsqueeze(-1)  # (B, 1)
    share = (row.squeeze(-1) * mass / total).unsqueeze(-1)  # (n, B, 1)
    # What was kept becomes the gradient, once; where a graph is retained, the next time computes anew.
    kept, ctx.kept = ctx.kept, None
    gradient = torch.empty_like(logits) if kept is None else kept
    for rows in row_chunks(len(targets), logits.shape[0] * logits.shape[2], logits.device):
        chunk = gradient[:, rows]
        if kept is None:
            s = logits[:, rows].to(dtype)
            chunk = chunk if chunk.dtype == dtype else torch.empty_like(s)
            torch.add(-largest[:, rows].unsqueeze(-1), s, alpha=ctx.factor, out=chunk).exp_()
        chunk.mul_(share[:, rows]).addcmul_(targets[rows].to(dtype), row[rows], value=-1)
        if gradient.dtype != dtype:
            gradient[:, rows] = chunk
    return gradient
