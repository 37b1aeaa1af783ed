"""Sections 1 and 3 of the document: a batch of two global crops per image, masked crop by crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from migrations.document.masking import BoolGrid, generate_block_masks, masks_of_one_crop

__all__ = ["collate", "mask_counts"]

N_GLOBAL_CROPS = 2


def mask_counts(
    n_rows: int,
    n_tokens: int,
    mask_ratio_min_max: tuple[float, float],
    mask_probability: float,
) -> list[int]:
    """Return the patches that section 3 asks of its generator, for crop 1 of every image, then crop 2.

    Official bins the rows of both crops together (`dinov2/data/collate.py:20-32`); the document calls its
    helper once per crop, so each call rounds its own number of masked rows down.

    Args:
        n_rows: global crops in the batch, twice the number of images.
        n_tokens: patches per crop.
        mask_ratio_min_max: the two ends of the bins, as fractions of `n_tokens`.
        mask_probability: fraction of the rows that are masked.

    Returns:
        n_rows counts before the shuffle, 0 = unmasked.

    Raises:
        ValueError: `n_rows` is odd.
    """
    if n_rows % N_GLOBAL_CROPS:
        raise ValueError(
            f"n_rows is {n_rows}, expected an even number: the two global crops of every image; "
            "pass twice the number of images"
        )
    batch_size = n_rows // N_GLOBAL_CROPS
    counts: list[int] = []
    for _ in range(N_GLOBAL_CROPS):
        asked: list[int] = []

        def record(count: int, asked: list[int] = asked) -> BoolGrid:
            asked.append(count)
            return np.zeros(n_tokens, dtype=bool)

        # The shuffle after the first crop's counts moves the generator on before the second's.
        masks_of_one_crop(batch_size, n_tokens, mask_ratio_min_max, mask_probability, record)
        counts += asked + [0] * (batch_size - len(asked))
    return counts


def collate(
    samples: Sequence[Mapping[str, Sequence[Tensor]]], config: DictConfig, dtype: torch.dtype
) -> dict[str, Tensor | int]:
    """Return the batch that the document's changes lead to, under official's keys.

    The document names no `mask_indices_list`, `n_masked_patches` or `upperbound`. They are derived here as
    `dinov2/data/collate.py:23-37, 48` does, from the document's own masks and bins: `upperbound` is then
    what official's head buffers would hold, and `n_masked_patches` shows how far the masks overflow them.

    Args:
        samples: per image, `global_crops` (two of (3, G, G)) and `local_crops` (n of (3, L, L)).
        config: official's keys; read are `crops.global_crops_size`, `student.patch_size` and `ibot`.
        dtype: of the crops.

    Returns:
        official's keys; `masks_weight` is (2B,), one weight per row, where official has one per token.

    Raises:
        ValueError: there is no sample, or one that has not exactly two global crops.
    """
    if not samples:
        raise ValueError("samples is empty, expected at least one image; drop the empty batch")
    for index, sample in enumerate(samples):
        if len(sample["global_crops"]) != N_GLOBAL_CROPS:
            raise ValueError(
                f"samples[{index}] has {len(sample['global_crops'])} global crops, expected "
                f"{N_GLOBAL_CROPS}; section 2 of the document removes the third view"
            )
    grid = config.crops.global_crops_size // config.student.patch_size
    low, high = config.ibot.mask_ratio_min_max
    probability = config.ibot.mask_sample_probability
    per_crop = [generate_block_masks(len(samples), grid, grid, low, high, probability) for _ in range(N_GLOBAL_CROPS)]
    masks = torch.cat([crop_masks for crop_masks, _ in per_crop])
    indices = masks.flatten().nonzero().flatten()
    bins = np.linspace(low, high, int(len(samples) * probability) + 1)
    return {
        "collated_global_crops": _view_major(samples, "global_crops").to(dtype),
        "collated_local_crops": _view_major(samples, "local_crops").to(dtype),
        "collated_masks": masks,
        "mask_indices_list": indices,
        "masks_weight": torch.cat([weights for _, weights in per_crop]),
        "upperbound": N_GLOBAL_CROPS * sum(int(grid * grid * edge) for edge in bins[1:]),
        "n_masked_patches": torch.tensor([len(indices)], dtype=torch.long),
    }


def _view_major(samples: Sequence[Mapping[str, Sequence[Tensor]]], key: str) -> Tensor:
    """Stack the crops with the view as the slow index, as `dinov2/data/collate.py:16-18`."""
    n_views = len(samples[0][key])
    return torch.stack([sample[key][view] for view in range(n_views) for sample in samples])
