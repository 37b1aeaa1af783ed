"""Learned positions, resized once to the grid that a model learns.

Shapes: N patches, D embedding dimension.
"""

from __future__ import annotations

from torch import Tensor

from port.models.position import resize_positions

__all__ = ["fit_positions"]


def fit_positions(pos_embed: Tensor, grid: tuple[int, int], *, antialias: bool, offset: float) -> Tensor:
    """Return positions for `grid`: the same where the number of patches is, else resized bicubically.

    The values are those with which official would run an image of that grid on the unresized weights
    (`dinov2/models/vision_transformer.py:180`), given the same `interpolate_antialias` and `interpolate_offset`.
    What differs afterwards: for other image sizes, such as local crops, the model resizes the resized positions.

    Args:
        pos_embed: (1, 1 + N, D), the CLS token's position first, then a square grid row by row.
        grid: rows and columns wanted.
        antialias: `student.interpolate_antialias`.
        offset: `student.interpolate_offset`.

    Returns:
        (1, 1 + rows * columns, D), of the type of `pos_embed`.

    Raises:
        ValueError: the grid differs and N is not a square, or see `resize_positions`.
    """
    if pos_embed.shape[1] - 1 == grid[0] * grid[1]:
        return pos_embed
    return resize_positions(pos_embed, grid, antialias=antialias, offset=offset).to(pos_embed.dtype)
