"""Section 3 of the document: its block masks, and the ratios that it asks them for.

The document's listing uses `math`, `random`, `numpy` and `Tuple` without importing them; the imports are the
only thing added here. Draws come from Python's `random` in the listing's order, so that a shared seed shows
where it parts from official.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BlockMaskGenerator", "generate_block_masks", "masks_of_one_crop"]

BoolGrid = npt.NDArray[np.bool_]

ATTEMPTS = 10
"""Rectangles tried per call of `BlockMaskGenerator._mask`, as in `dinov2/data/masking.py:51`."""


class BlockMaskGenerator:
    """Rectangles drawn until a target is reached or passed, as the document proposes.

    Departs from `dinov2/data/masking.py:11` in three ways:

    - `_mask` goes on after a rectangle has added something, up to ten rectangles against one and the same
      budget; official stops after the first (`:69-70`). This makes the masks overshoot their target;
    - nothing caps a rectangle (`max_num_patches`, `:29` and `:78`);
    - the mask comes back flat, (H*W,), not (H, W) (`:86`).

    Args:
        input_size: height and width of the grid, in patches; one number for a square.
        min_num_patches: smallest area drawn, in patches, before rounding.
        min_aspect: smallest height / width drawn.
        max_aspect: largest height / width drawn; `1 / min_aspect` when None.
    """

    def __init__(
        self,
        input_size: int | tuple[int, int],
        min_num_patches: int = 4,
        min_aspect: float = 0.3,
        max_aspect: float | None = None,
    ) -> None:
        self.height, self.width = input_size if isinstance(input_size, tuple) else (input_size, input_size)
        self.num_patches = self.height * self.width
        self.min_num_patches = min_num_patches
        self.log_aspect_ratio = (math.log(min_aspect), math.log(max_aspect or 1 / min_aspect))

    def _mask(self, mask: BoolGrid, max_mask_patches: int) -> int:
        """Draw up to ten rectangles into `mask` and return how many patches they added."""
        delta = 0
        for _ in range(ATTEMPTS):
            target_area = random.uniform(self.min_num_patches, max_mask_patches)
            aspect_ratio = math.exp(random.uniform(*self.log_aspect_ratio))
            h = round(math.sqrt(target_area * aspect_ratio))
            w = round(math.sqrt(target_area / aspect_ratio))
            if w >= self.width or h >= self.height:
                continue
            top = random.randint(0, self.height - h)
            left = random.randint(0, self.width - w)
            block = mask[top : top + h, left : left + w]
            added = h * w - int(block.sum())
            if 0 < added <= max_mask_patches:
                block[:] = True
                delta += added
                # The budget is compared with the sum but never lowered by it: nine tenths of it may be
                # spent already, and the next rectangle may still add a whole one.
                if delta >= max_mask_patches:
                    break
        return delta

    def __call__(self, num_masking_patches: int) -> BoolGrid:
        """Return one mask, flat (H*W,), True = masked.

        Args:
            num_masking_patches: the target, in patches; the mask usually holds more.

        Raises:
            ValueError: the target is negative or larger than the grid.
        """
        if not 0 <= num_masking_patches <= self.num_patches:
            raise ValueError(
                f"num_masking_patches is {num_masking_patches}, expected 0 to {self.num_patches} "
                f"on a {self.height} x {self.width} grid; lower the target"
            )
        mask = np.zeros((self.height, self.width), dtype=bool)
        mask_count = 0
        while mask_count < num_masking_patches:
            delta = self._mask(mask, num_masking_patches - mask_count)
            if delta == 0:
                break
            mask_count += delta
        return mask.flatten()


def masks_of_one_crop(
    batch_size: int,
    n_patches: int,
    mask_ratio_min_max: tuple[float, float],
    mask_sample_probability: float,
    draw: Callable[[int], BoolGrid],
) -> list[BoolGrid]:
    """Return the shuffled masks of one global crop of every image.

    Departs from `dinov2/data/collate.py:20-34`: the rows are the images of one crop, not the global crops of
    all, and the bins are float64, not float32.

    Args:
        batch_size: number of images.
        n_patches: patches per crop.
        mask_ratio_min_max: the two ends of the bins, as fractions of `n_patches`.
        mask_sample_probability: fraction of the images that are masked, rounded down.
        draw: makes a mask from a number of patches.
    """
    n_masked_samples = int(batch_size * mask_sample_probability)
    probs = np.linspace(*mask_ratio_min_max, n_masked_samples + 1)
    masks = [draw(int(n_patches * random.uniform(low, high))) for low, high in itertools.pairwise(probs)]
    masks += [np.zeros(n_patches, dtype=bool) for _ in range(n_masked_samples, batch_size)]
    random.shuffle(masks)
    return masks


def generate_block_masks(
    batch_size: int,
    n_patches_h: int,
    n_patches_w: int,
    mask_ratio_min: float = 0.1,
    mask_ratio_max: float = 0.5,
    mask_sample_probability: float = 0.5,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Return the masks of one global crop of every image, and one weight per image.

    Departs from `dinov2/data/collate.py:36-39` in the weights: one per row, 0 for an unmasked one, where
    official has one per masked token. The listing's default device is `cuda`.

    Args:
        batch_size: number of images B.
        n_patches_h: rows of the patch grid.
        n_patches_w: columns of the patch grid.
        mask_ratio_min: lower end of the first bin, as a fraction of the patches.
        mask_ratio_max: upper end of the last bin.
        mask_sample_probability: fraction of the images that are masked, rounded down.
        device: where the tensors are made.

    Returns:
        masks bool (B, H*W), and weights float32 (B,): 1 / masked patches, or 0.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least one image; drop the empty batch")
    masks = masks_of_one_crop(
        batch_size,
        n_patches_h * n_patches_w,
        (mask_ratio_min, mask_ratio_max),
        mask_sample_probability,
        BlockMaskGenerator((n_patches_h, n_patches_w), min_num_patches=4, min_aspect=0.3),
    )
    collated = torch.tensor(np.stack(masks), dtype=torch.bool, device=device)
    n_masked = collated.sum(dim=1).float()
    return collated, torch.where(n_masked > 0, 1.0 / n_masked, torch.zeros_like(n_masked))
