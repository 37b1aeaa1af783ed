"""Learned positions, resized to the patch grid of an image.

Shapes: N patches, D embedding dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["resize_positions"]


def resize_positions(pos_embed: Tensor, grid: tuple[int, int], *, antialias: bool, offset: float) -> Tensor:
    """Resize a square grid of positions bicubically, in fp32; the CLS token's is kept.

    Mirrors `dinov2/models/vision_transformer.py:180-212`.

    Args:
        pos_embed: (1, 1 + N, D), the CLS token's position first, then row by row.
        grid: rows and columns wanted.
        antialias: whether shrinking low-passes first.
        offset: added to the wanted rows and columns before the scale factor is formed, as official does for
            compatibility with older models; 0 resizes to the exact size instead.

    Returns:
        (1, 1 + rows * columns, D), float32.

    Raises:
        ValueError: N is not a square, or `offset` changes the resulting grid.
    """
    learned = pos_embed.shape[1] - 1
    side = math.isqrt(learned)
    if side * side != learned:
        raise ValueError(
            f"{learned} learned positions are not a square grid and cannot be resized to {grid}: "
            "build the model with a square img_size"
        )
    rows, columns = grid
    device = pos_embed.device
    if device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        # CUDA's backward pass adds in any order and refuses here; a CPU's does not, and the grid is small.
        pos_embed = pos_embed.cpu()
    pos_embed = pos_embed.float()
    patches = pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, side, side)
    if offset:
        # The kernel samples at the scale it is given, not at the ratio of the sizes.
        scale = (float(rows + offset) / side, float(columns + offset) / side)
        patches = functional.interpolate(patches, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        patches = functional.interpolate(patches, size=grid, mode="bicubic", antialias=antialias)
    if tuple(patches.shape[-2:]) != grid:
        raise ValueError(
            f"interpolate_offset {offset} resizes positions to {tuple(patches.shape[-2:])} "
            f"where the image has {grid} patches: use an offset of at least 0 and well below 1"
        )
    patches = patches.permute(0, 2, 3, 1).flatten(1, 2)  # (1, rows * columns, D)
    return torch.cat((pos_embed[:, :1], patches), dim=1).to(device)
