"""Stochastic depth by batch subset in few passes over memory, and for chosen tokens only: what `kernels=fast` computes.

Shapes: B batch, N tokens, D embedding dimension, S samples of a subset, T tokens of all subsets, R wanted rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from port.derivatives import refuse_second_derivative

__all__ = ["Draw", "add_to_subsets", "rows_in_subset", "take_subsets"]

Draw = tuple[Tensor, float]
"""Samples (S,), int64, and their residual's scale, as `port.models.block.get_branges_scales` draws them."""


def take_subsets(x_list: Sequence[Tensor], draws: Sequence[Draw]) -> tuple[Tensor, list[Tensor]]:
    """Lay the drawn samples of batches (B_i, N_i, D) end to end.

    Returns:
        (T, D), and the batches themselves: a residual is to be added to these, for then the two gradients of a batch
        are added without a tensor of zeros in between.
    """
    row, *same = _TakeSubsets.apply(*x_list, *(brange for brange, _ in draws))
    return row, same


def add_to_subsets(x_list: Sequence[Tensor], draws: Sequence[Draw], residuals: Tensor) -> list[Tensor]:
    """Add the drawn samples' scaled residuals (T, D) to batches (B_i, N_i, D); returns new batches."""
    branges, scales = zip(*draws, strict=True)
    return list(_AddToSubsets.apply(residuals.to(x_list[0].dtype), scales, *x_list, *branges))


def rows_in_subset(rows: Tensor, shape: Sequence[int], draw: Draw, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Find tokens of a batch in a drawn subset of it, without waiting for the device.

    Args:
        rows: int64 (R,), indices into the B * N tokens of the batch.
        shape: (B, N, ...) of the batch.
        draw: the subset.
        dtype: of the factors.

    Returns:
        Indices (R,) into the S * N tokens of the subset, of any token where the sample was not drawn; and factors
        (R,) of the residual: the scale where it was drawn, else 0.
    """
    brange, scale = draw
    n = shape[1]
    sample = rows // n
    place = torch.zeros(shape[0], dtype=torch.int64, device=rows.device)
    place = place.index_copy(0, brange, torch.arange(len(brange), device=rows.device))
    factor = torch.zeros(shape[0], dtype=dtype, device=rows.device).index_fill(0, brange, scale)
    return place[sample] * n + rows % n, factor[sample]


def _places(row: Tensor, x_list: Sequence[Tensor], branges: Sequence[Tensor]) -> list[Tensor]:
    """Cut a row (T, D) into the batches' subsets (S_i, N_i, D), as views."""
    parts = row.split([len(brange) * x.shape[1] for x, brange in zip(x_list, branges, strict=True)])
    return [part.view(-1, *x.shape[1:]) for part, x in zip(parts, x_list, strict=True)]


class _TakeSubsets(torch.autograd.Function):
    """The function of `take_subsets`."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        half = len(tensors) // 2
        x_list, branges = tensors[:half], tensors[half:]
        ctx.save_for_backward(*branges)
        tokens = sum(len(brange) * x.shape[1] for x, brange in zip(x_list, branges, strict=True))
        row = x_list[0].new_empty(tokens, x_list[0].shape[-1])
        for x, brange, place in zip(x_list, branges, _places(row, x_list, branges), strict=True):
            torch.index_select(x, 0, brange, out=place)
        return row, *(x.view_as(x) for x in x_list)

    @staticmethod
    def backward(ctx: Any, drow: Tensor, *dx_list: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        branges = ctx.saved_tensors
        places = _places(drow, dx_list, branges)
        together = [
            torch.index_add(dx, 0, brange, place) for dx, brange, place in zip(dx_list, branges, places, strict=True)
        ]
        return *together, *(None for _ in branges)


class _AddToSubsets(torch.autograd.Function):
    """The function of `add_to_subsets`."""

    @staticmethod
    def forward(ctx: Any, residuals: Tensor, scales: tuple[float, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        half = len(tensors) // 2
        x_list, branges = tensors[:half], tensors[half:]
        ctx.save_for_backward(*branges)
        ctx.scales = scales
        places = _places(residuals, x_list, branges)
        parts = zip(x_list, branges, places, scales, strict=True)
        return tuple(torch.index_add(x, 0, brange, place, alpha=scale) for x, brange, place, scale in parts)

    @staticmethod
    def backward(ctx: Any, *dx_list: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        branges = ctx.saved_tensors
        tokens = sum(len(brange) * dx.shape[1] for dx, brange in zip(dx_list, branges, strict=True))
        dresiduals = dx_list[0].new_empty(tokens, dx_list[0].shape[-1])
        places = _places(dresiduals, dx_list, branges)
        for dx, brange, place, scale in zip(dx_list, branges, places, ctx.scales, strict=True):
            torch.index_select(dx, 0, brange, out=place).mul_(scale)
        return dresiduals, None, *dx_list, *(None for _ in branges)
