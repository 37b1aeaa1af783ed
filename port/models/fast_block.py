"""The fast form of a transformer block, over a packed row or over subsets, for all tokens or for those that are wanted.

Shapes: B batch, N tokens, D embedding dimension, T tokens of a packed row, R wanted tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from port.models.ffn import normed_ffn
from port.models.fused import scaled_linear
from port.models.layers import gamma_of
from port.models.subsets import Draw, add_to_subsets, rows_in_subset, take_subsets

if TYPE_CHECKING:
    from port.models.block import Block

__all__ = ["DrawSubset", "run_row", "run_subsets", "run_wanted"]

DrawSubset = Callable[[Tensor], Draw]
"""Draws a subset of a batch (B, N, D)."""


def run_row(block: Block, x_list: Sequence[Tensor]) -> list[Tensor]:
    """Run a block on all tokens of batches (B_i, N_i, D), without subsets; several are packed in one row."""
    shapes = [(x.shape[0], x.shape[1]) for x in x_list]
    samples = shapes[0][0] if len(shapes) == 1 else 1  # the drop path of a list is by subset
    row = _packed(x_list)
    attended = block.attn.attend(row, block.norm1, shapes)
    row = _sum(row, _dropped(block, scaled_linear(attended, block.attn.proj, gamma_of(block.ls1)), samples))
    row = _sum(row, _dropped(block, normed_ffn(block.mlp, row, block.norm2, gamma_of(block.ls2)), samples))
    parts = row.split([b * n for b, n in shapes])
    return [part.view(x.shape) for part, x in zip(parts, x_list, strict=True)]


def run_subsets(block: Block, x_list: Sequence[Tensor], draw: DrawSubset) -> list[Tensor]:
    """Run a block with each residual on a subset of each batch (B_i, N_i, D)."""
    # All subsets of a branch are drawn before it is computed: this is the order of official's random numbers.
    draws = [draw(x) for x in x_list]
    row, same = take_subsets(x_list, draws)
    attended = block.attn.attend(row, block.norm1, _shapes(x_list, draws))
    residuals = scaled_linear(attended, block.attn.proj, gamma_of(block.ls1))
    x_list = add_to_subsets(same, draws, residuals)

    draws = [draw(x) for x in x_list]
    row, same = take_subsets(x_list, draws)
    residuals = normed_ffn(block.mlp, row, block.norm2, gamma_of(block.ls2))
    return add_to_subsets(same, draws, residuals)


def run_wanted(block: Block, x_list: Sequence[Tensor], rows: Sequence[Tensor], draw: DrawSubset | None) -> list[Tensor]:
    """Run a block for the wanted tokens: all tokens are attended to, the rest is computed for the wanted ones alone.

    A token of a sample that was not drawn has its residual multiplied by 0: how many were drawn is not asked for, as a
    GPU would have to be waited for.

    Args:
        block: the layers.
        x_list: batches (B_i, N_i, D).
        rows: for each batch int64 (R_i,), indices into its B_i * N_i tokens.
        draw: draws a subset; None where the residuals are of all samples.

    Returns:
        For each batch (R_i, D).
    """
    if draw is None:
        row, same = _packed(x_list), x_list
        shapes = [(x.shape[0], x.shape[1]) for x in x_list]
        places = list(rows)
        factors = [_classic_factors(block, x, r) for x, r in zip(x_list, rows, strict=True)]
        ffn_factors = [_classic_factors(block, x, r) for x, r in zip(x_list, rows, strict=True)]
    else:
        draws = [draw(x) for x in x_list]
        ffn_draws = [draw(x) for x in x_list]
        row, same = take_subsets(x_list, draws)
        shapes = _shapes(x_list, draws)
        found = [rows_in_subset(r, x.shape, d, x.dtype) for r, x, d in zip(rows, x_list, draws, strict=True)]
        places, factors = [place for place, _ in found], [factor for _, factor in found]
        ffn_factors = [
            rows_in_subset(r, x.shape, d, x.dtype)[1] for r, x, d in zip(rows, x_list, ffn_draws, strict=True)
        ]
    attended = block.attn.attend(row, block.norm1, shapes)
    wanted = [part.index_select(0, place) for part, place in zip(attended, places, strict=True)]
    residual = scaled_linear(wanted, block.attn.proj, gamma_of(block.ls1))
    x = torch.cat([x.flatten(0, 1).index_select(0, r) for x, r in zip(same, rows, strict=True)])
    x = x + residual * torch.cat(factors).unsqueeze(1)
    residual = normed_ffn(block.mlp, x, block.norm2, gamma_of(block.ls2))
    x = x + residual * torch.cat(ffn_factors).unsqueeze(1)
    return list(x.split([len(r) for r in rows]))


def _shapes(x_list: Sequence[Tensor], draws: Sequence[Draw]) -> list[tuple[int, int]]:
    return [(len(brange), x.shape[1]) for x, (brange, _) in zip(x_list, draws, strict=True)]


def _packed(x_list: Sequence[Tensor]) -> Tensor:
    """Lay batches (B_i, N_i, D) end to end: (T, D)."""
    flat = [x.flatten(0, 1) for x in x_list]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _sum(row: Tensor, residual: Tensor) -> Tensor:
    """Add row and residual, in the residual's place where it has the sum's dtype: nothing keeps it."""
    return residual.add_(row) if residual.dtype == row.dtype else row + residual


def _dropped(block: Block, residual: Tensor, samples: int) -> Tensor:
    """Apply classic drop path to a residual (T, D) of equal samples."""
    dropped: Tensor = block.drop_path1(residual.view(samples, -1, residual.shape[-1]))
    return dropped.view(residual.shape)


def _classic_factors(block: Block, x: Tensor, rows: Tensor) -> Tensor:
    """Return the factors (R,) of classic drop path for tokens of x (B, N, D); ones without."""
    factors: Tensor = block.drop_path1(x.new_ones(len(x), 1, 1))
    return factors.flatten()[rows // x.shape[1]]
