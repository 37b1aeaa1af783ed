"""A transformer block, for a batch or for a list of batches, with stochastic depth by batch subset.

Shapes: B batch, N tokens, D embedding dimension, T tokens of a packed row, S samples of a subset.

Stochastic depth here is official's: instead of zeroing residuals, a random subset of the batch is drawn,
only that subset is computed, and its residual is scaled by B / S (quirk Q33). Lists always use it; tensors
only at rates above 0.1, below which they use the classic form (quirk Q34).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from port.models.attention import Attention, group_equal_lengths
from port.models.fast_block import run_row, run_subsets, run_wanted
from port.models.ffn import build_ffn
from port.models.layers import DropPath, LayerScale, gamma_of, layer_norm

__all__ = ["Block", "blocks_in_official_order", "get_branges_scales", "pack", "unpack"]

SUBSET_THRESHOLD = 0.1
"""Above this rate, official's tensor path computes a subset (`dinov2/layers/block.py:96`)."""

Groups = list[tuple[int, int]]


def get_branges_scales(x: Tensor, sample_drop_ratio: float = 0.0) -> tuple[Tensor, float]:
    """Draw the samples whose residual is computed. Mirrors `dinov2/layers/block.py:197`.

    Args:
        x: (B, N, D); only its batch size and device are used.
        sample_drop_ratio: share of the batch to leave out, in [0, 1].

    Returns:
        Indices (S,), int64, on x's device, S = max(int(B * (1 - ratio)), 1); and the scale B / S.
    """
    b = x.shape[0]
    sample_subset_size = max(int(b * (1 - sample_drop_ratio)), 1)
    brange = torch.randperm(b, device=x.device)[:sample_subset_size]
    return brange, b / sample_subset_size


def pack(x_list: Sequence[Tensor]) -> tuple[Tensor, Groups]:
    """Lay batches (B_i, N_i, D) end to end in one row (1, T, D).

    Returns:
        The row and the groups of equal length for `Attention`.
    """
    row = torch.cat([x.reshape(1, -1, x.shape[-1]) for x in x_list], dim=1)
    return row, group_equal_lengths((x.shape[0], x.shape[1]) for x in x_list)


def unpack(row: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a row (1, T, D) back into batches of the shapes of `like`."""
    parts = torch.split(row, [x.shape[0] * x.shape[1] for x in like], dim=1)
    return [part.view(x.shape) for part, x in zip(parts, like, strict=True)]


def _add_residual(x: Tensor, brange: Tensor, residual: Tensor, scale: float, gamma: Tensor | None) -> Tensor:
    """Add scale * residual (S, N, D), times gamma (D,) if any, to the rows `brange` of x (B, N, D)."""
    residual = residual.to(dtype=x.dtype)
    if gamma is not None:
        return torch.index_add(x, 0, brange, residual * gamma, alpha=scale)
    return torch.index_add(x.flatten(1), 0, brange, residual.flatten(1), alpha=scale).view_as(x)


def _drop_add_residual(x: Tensor, residual_func: Callable[[Tensor], Tensor], ratio: float) -> Tensor:
    """Add the residual of a random subset of a batch. Mirrors `dinov2/layers/block.py:173`."""
    brange, scale = get_branges_scales(x, ratio)
    return _add_residual(x, brange, residual_func(x[brange]), scale, None)


def _drop_add_residual_list(
    x_list: list[Tensor],
    residual_func: Callable[[Tensor, Groups], Tensor],
    ratio: float,
    gamma: Tensor | None,
) -> list[Tensor]:
    """Add the residuals of one random subset per batch, computed together. Mirrors `dinov2/layers/block.py:244`."""
    # All subsets are drawn before anything is computed: this is the order of official's random numbers.
    draws = [get_branges_scales(x, ratio) for x in x_list]
    subsets = [x.index_select(0, brange) for x, (brange, _) in zip(x_list, draws, strict=True)]
    row, groups = pack(subsets)
    residuals = unpack(residual_func(row, groups), subsets)
    return [
        _add_residual(x, brange, residual, scale, gamma)
        for x, residual, (brange, scale) in zip(x_list, residuals, draws, strict=True)
    ]


class Block(nn.Module):
    """Pre-norm attention and feed-forward with residuals, LayerScale and stochastic depth.

    Mirrors `dinov2/layers/block.py:43` (tensors) and `:267` (lists).

    Args:
        dim: D.
        num_heads: attention heads.
        mlp_ratio: hidden features of the feed-forward layer / D.
        qkv_bias: bias of the linear for queries, keys and values.
        proj_bias: bias of attention's output linear.
        ffn_bias: biases of the feed-forward layer.
        init_values: initial LayerScale; None or 0 for none.
        drop_path: stochastic depth rate, in [0, 1].
        ffn_layer: one of `port.models.ffn.FFN_LAYERS`.
        fast: whether the fast form is computed, see `port.kernels`; it has the same parameters and random numbers. It
            computes with the layers' parameters and does not call the layers, so their hooks are not called either:
            see `blocks_in_official_order`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        ffn_bias: bool = True,
        init_values: float | None = None,
        drop_path: float = 0.0,
        ffn_layer: str = "mlp",
        fast: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_path <= 1.0:
            raise ValueError(f"drop_path is {drop_path}; expected a rate between 0 and 1")
        self.norm1 = layer_norm(dim)
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=qkv_bias, proj_bias=proj_bias)
        self.ls1 = LayerScale(dim, init_values=init_values) if init_values else nn.Identity()
        # Official builds a drop_path2 and never calls it: drop_path1 serves both residuals (Q34).
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = layer_norm(dim)
        self.mlp = build_ffn(ffn_layer, dim, int(dim * mlp_ratio), bias=ffn_bias)
        self.ls2 = LayerScale(dim, init_values=init_values) if init_values else nn.Identity()
        self.sample_drop_ratio = drop_path
        self.fast = fast

    def forward(self, x: Tensor | list[Tensor], rows: Tensor | list[Tensor] | None = None) -> Tensor | list[Tensor]:
        """Transform a batch (B, N, D), or a list of batches (B_i, N_i, D) together.

        Args:
            x: the batch or batches.
            rows: the tokens that are wanted, int64 (R,), indices into the B * N tokens of the batch; for a list, a
                list of such. None for all.

        Returns:
            The same shape, or list of shapes; with `rows` (R, D), or a list of such.
        """
        if self.fast:
            return self._forward_fast(x, rows)
        if isinstance(x, list):
            out = self._forward_list(x)
            return out if rows is None else [y.flatten(0, 1)[r] for y, r in zip(out, rows, strict=True)]
        y = self._forward_tensor(x)
        return y if rows is None else y.flatten(0, 1)[rows]

    def _attn_residual(self, x: Tensor, groups: Groups | None = None) -> Tensor:
        residual: Tensor = self.attn(self.norm1(x), groups)
        return residual

    def _ffn_residual(self, x: Tensor, groups: Groups | None = None) -> Tensor:
        residual: Tensor = self.mlp(self.norm2(x))
        return residual

    def _forward_tensor(self, x: Tensor) -> Tensor:
        def attn(x: Tensor) -> Tensor:
            scaled: Tensor = self.ls1(self._attn_residual(x))
            return scaled

        def ffn(x: Tensor) -> Tensor:
            scaled: Tensor = self.ls2(self._ffn_residual(x))
            return scaled

        if self.training and self.sample_drop_ratio > SUBSET_THRESHOLD:
            x = _drop_add_residual(x, attn, self.sample_drop_ratio)
            x = _drop_add_residual(x, ffn, self.sample_drop_ratio)
        else:
            x = x + self.drop_path1(attn(x))
            x = x + self.drop_path1(ffn(x))
        return x

    def _forward_list(self, x_list: list[Tensor]) -> list[Tensor]:
        if self.training and self.sample_drop_ratio > 0.0:
            # LayerScale is applied while adding, to full precision residuals; ls1 and ls2 are built
            # together, so official's asking ls1 about both (Q35) gives the same answer.
            ratio = self.sample_drop_ratio
            x_list = _drop_add_residual_list(x_list, self._attn_residual, ratio, gamma_of(self.ls1))
            return _drop_add_residual_list(x_list, self._ffn_residual, ratio, gamma_of(self.ls2))
        row, groups = pack(x_list)
        row = row + self.ls1(self._attn_residual(row, groups))
        row = row + self.ls2(self._ffn_residual(row))
        return unpack(row, x_list)

    def _forward_fast(self, x: Tensor | list[Tensor], rows: Tensor | list[Tensor] | None) -> Tensor | list[Tensor]:
        listed = isinstance(x, list)
        x_list = x if isinstance(x, list) else [x]
        ratio = self.sample_drop_ratio
        by_subset = self.training and ratio > (0.0 if listed else SUBSET_THRESHOLD)
        draw = partial(get_branges_scales, sample_drop_ratio=ratio) if by_subset else None
        if rows is not None:
            out = run_wanted(self, x_list, rows if isinstance(rows, list) else [rows], draw)
        elif draw is not None:
            out = run_subsets(self, x_list, draw)
        else:
            out = run_row(self, x_list)
        return out if listed else out[0]


@contextmanager
def blocks_in_official_order(model: nn.Module) -> Iterator[None]:
    """Let all blocks of a model call their layers one by one for a while, so that the layers' hooks are called."""
    fast = [module for module in model.modules() if isinstance(module, Block) and module.fast]
    for block in fast:
        block.fast = False
    try:
        yield
    finally:
        for block in fast:
            block.fast = True
