"""Block masks for code that has a grid and a number of rows, and no collate function of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from port.data.collate import draw_masks
from port.data.masking import MaskingGenerator

__all__ = ["draw_block_masks"]


def draw_block_masks(
    n_rows: int,
    grid: tuple[int, int],
    mask_ratio_min_max: tuple[float, float] = (0.1, 0.5),
    mask_sample_probability: float = 0.5,
) -> Tensor:
    """Return masks bool (n_rows, H * W), True = masked, as collate draws them (`dinov2/data/collate.py:20-36`).

    Draws come from Python's `random`. The defaults are official's (`dinov2/configs/ssl_default_config.yaml`).

    Args:
        n_rows: number of global crops, 2B: official draws the masks of both crops together.
        grid: (height, width) of a global crop, in patches.
        mask_ratio_min_max: smallest and largest share of masked patches in a masked row.
        mask_sample_probability: share of the rows that are masked, rounded down.

    Raises:
        ValueError: there is no row.
    """
    if n_rows < 1:
        raise ValueError(f"n_rows is {n_rows}, expected the number of global crops; drop the empty batch")
    height, width = grid
    # `max_num_patches` of a square image: half the grid, floored before it is multiplied (quirk Q3).
    generator = MaskingGenerator((height, width), max_num_patches=height // 2 * width)
    masks, _ = draw_masks(n_rows, height * width, mask_ratio_min_max, mask_sample_probability, generator)
    return torch.stack(masks).flatten(1)
