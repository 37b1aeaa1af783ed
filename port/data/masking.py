"""Block masks for iBOT, drawn from Python's `random` exactly as official code draws them.

A mask is filled with rectangles until it holds the number of patches asked for. The number is an upper bound
that is nearly always met: one patch is missing in a fifteenth of the masks, rarely more (quirk Q26).
"""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import NDArray

__all__ = ["MaskingGenerator", "max_num_patches"]

ATTEMPTS_PER_BLOCK = 10


def max_num_patches(img_size: int, patch_size: int) -> float:
    """Return the largest block that one draw may add, in patches (`dinov2/train/train.py:172`).

    Official code evaluates `0.5 * img_size // patch_size * img_size // patch_size` from left to right, with a
    floor in the middle: half the grid where the grid is even, less where it is odd (quirk Q3). 518 pixels in
    patches of 14 give 666.0, although half of 37 x 37 patches is 684.5.

    Args:
        img_size: side of a global crop, in pixels.
        patch_size: side of a patch, in pixels.
    """
    half_grid = 0.5 * img_size // patch_size
    return half_grid * img_size // patch_size


class MaskingGenerator:
    """Draws block masks over a grid of patches (`dinov2/data/masking.py:11`).

    Seeded alike, it returns official's masks bit for bit and leaves `random` in official's state.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        num_masking_patches: int | None = None,
        min_num_patches: int = 4,
        max_num_patches: float | None = None,
        min_aspect: float = 0.3,
        max_aspect: float | None = None,
    ) -> None:
        """Set the grid and the bounds of one block.

        Args:
            input_size: (height, width) of the grid, in patches; one number means a square.
            num_masking_patches: used only where `max_num_patches` is None.
            min_num_patches: lower bound of the area drawn for a block, in patches.
            max_num_patches: upper bound of the area of a block, in patches; see `max_num_patches()`.
            min_aspect: smallest height / width of a block.
            max_aspect: largest height / width of a block; None means 1 / `min_aspect`.
        """
        self.height, self.width = (input_size, input_size) if isinstance(input_size, int) else input_size
        self.num_patches = self.height * self.width
        self.num_masking_patches = num_masking_patches
        self.min_num_patches = min_num_patches
        self.max_num_patches = num_masking_patches if max_num_patches is None else max_num_patches
        self.log_aspect_ratio = (math.log(min_aspect), math.log(max_aspect or 1 / min_aspect))

    def __repr__(self) -> str:
        low, high = (math.exp(bound) for bound in self.log_aspect_ratio)
        return (
            f"MaskingGenerator({self.height} x {self.width} patches, blocks of {self.min_num_patches} to "
            f"{self.max_num_patches} patches, aspect {low:.3f} to {high:.3f})"
        )

    def get_shape(self) -> tuple[int, int]:
        """Return (height, width) of the grid, in patches."""
        return self.height, self.width

    def __call__(self, num_masking_patches: int = 0) -> NDArray[np.bool_]:
        """Draw one mask (`dinov2/data/masking.py:74`).

        Args:
            num_masking_patches: how many patches to mask, at most.

        Returns:
            bool array (height, width), True = masked.

        Raises:
            ValueError: patches are asked for, but the generator has no upper bound for a block.
        """
        mask = np.zeros(self.get_shape(), dtype=bool)
        if num_masking_patches > 0 and self.max_num_patches is None:
            raise ValueError(
                f"max_num_patches is None, expected a number to draw {num_masking_patches} masked patches; "
                "pass max_num_patches=max_num_patches(img_size, patch_size)"
            )
        mask_count = 0
        while mask_count < num_masking_patches:
            assert self.max_num_patches is not None
            delta = self._mask(mask, min(num_masking_patches - mask_count, self.max_num_patches))
            if delta == 0:
                break
            mask_count += delta
        return mask

    def _mask(self, mask: NDArray[np.bool_], max_mask_patches: float) -> int:
        """Add the first block that fits to `mask`, in place; return how many patches it added, 0 if none."""
        for _ in range(ATTEMPTS_PER_BLOCK):
            target_area = random.uniform(self.min_num_patches, max_mask_patches)
            aspect_ratio = math.exp(random.uniform(*self.log_aspect_ratio))
            h = round(math.sqrt(target_area * aspect_ratio))
            w = round(math.sqrt(target_area / aspect_ratio))
            # Strict on both sides: a block never spans the grid, and a refused shape draws no position (Q27).
            if not (w < self.width and h < self.height):
                continue
            # The draws of `randint(0, n)`, which official calls, without its way through two more functions.
            top = random.randrange(self.height - h + 1)
            left = random.randrange(self.width - w + 1)
            block = mask[top : top + h, left : left + w]
            delta = h * w - int(np.count_nonzero(block))
            if 0 < delta <= max_mask_patches:
                block[:] = True
                return delta
        return 0
