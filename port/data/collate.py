"""From a list of samples to the batch that a training step takes, masks included."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batch", "collate_data_and_cast", "draw_masks"]


class Batch(TypedDict):
    """What a training step takes; B images, n local crops per image, N patches per global crop.

    Attributes:
        collated_global_crops: (2B, C, G, G), crop 1 of every image, then crop 2 of every image.
        collated_local_crops: (nB, C, L, L), likewise; (0, C, 0, 0) without local crops.
        collated_masks: bool (2B, N), True = masked.
        mask_indices_list: int64 (M,), positions of the masked patches in the flattened (2B * N) patches.
        masks_weight: float32 (M,), 1 / number of masked patches in the same crop.
        upperbound: number of rows that hold any M drawn from the same bins; M <= upperbound.
        n_masked_patches: int64 (1,), M.
    """

    collated_global_crops: Tensor
    collated_local_crops: Tensor
    collated_masks: Tensor
    mask_indices_list: Tensor
    masks_weight: Tensor
    upperbound: int
    n_masked_patches: Tensor


def collate_data_and_cast(
    samples_list: Sequence[Sequence[Any]],
    mask_ratio_tuple: Sequence[float],
    mask_probability: float,
    dtype: torch.dtype,
    n_tokens: int,
    mask_generator: Callable[[int], NDArray[np.bool_]],
) -> Batch:
    """Stack crops and draw the masks of a batch (`dinov2/data/collate.py:10`).

    Masks are counted and shuffled over all 2B global crops, so both crops of an image may be masked, or none.
    Draws come from Python's `random`, in official's order.

    Args:
        samples_list: per image a sequence whose first element maps `global_crops` and `local_crops` to lists
            of tensors (C, G, G) and (C, L, L).
        mask_ratio_tuple: smallest and largest share of masked patches in a masked crop.
        mask_probability: share of the 2B global crops that are masked, rounded down.
        dtype: type of the collated crops.
        n_tokens: N, number of patches in a global crop.
        mask_generator: draws a bool array (H, W) with at most the given number of masked patches.

    Raises:
        ValueError: there is no sample, or the masks do not have `n_tokens` patches.
    """
    if not samples_list:
        raise ValueError("samples_list is empty, expected at least one sample; is drop_last set?")
    global_crops = _stack_crops(samples_list, "global_crops")
    masks_list, upperbound = draw_masks(len(global_crops), n_tokens, mask_ratio_tuple, mask_probability, mask_generator)
    collated_masks = torch.stack(masks_list).flatten(1)
    if collated_masks.shape[1] != n_tokens:
        raise ValueError(
            f"the mask generator returns {collated_masks.shape[1]} patches, expected n_tokens = {n_tokens}; "
            "build both from the same img_size // patch_size"
        )
    mask_indices_list = collated_masks.flatten().nonzero().flatten()
    weight_per_crop = 1 / collated_masks.sum(-1).clamp(min=1.0)
    return {
        "collated_global_crops": global_crops.to(dtype),
        "collated_local_crops": _stack_crops(samples_list, "local_crops").to(dtype),
        "collated_masks": collated_masks,
        "mask_indices_list": mask_indices_list,
        "masks_weight": weight_per_crop.unsqueeze(-1).expand_as(collated_masks)[collated_masks],
        "upperbound": upperbound,
        "n_masked_patches": torch.full((1,), fill_value=mask_indices_list.shape[0], dtype=torch.long),
    }


def _stack_crops(samples_list: Sequence[Sequence[Any]], key: str) -> Tensor:
    """Stack crops, crop index outermost: (n crops * B images, C, H, W)."""
    n_crops = len(samples_list[0][0][key])
    crops: list[Tensor] = [sample[0][key][i] for i in range(n_crops) for sample in samples_list]
    if not crops:
        # Official stops here with torch.stack's own error (Q19). No crop tells L, hence zero sides.
        first_global_crop: Tensor = samples_list[0][0]["global_crops"][0]
        return first_global_crop.new_zeros((0, first_global_crop.shape[0], 0, 0))
    return torch.stack(crops)


def draw_masks(
    n_rows: int,
    n_tokens: int,
    mask_ratio_tuple: Sequence[float],
    mask_probability: float,
    mask_generator: Callable[[int], NDArray[np.bool_]],
) -> tuple[list[Tensor], int]:
    """Return one mask per global crop, shuffled, and the upper bound of masked patches in all of them.

    The ratios stay float32 tensors: official passes tensors to `random.uniform`, and in double precision three
    counts in a million differ.
    """
    n_samples_masked = int(n_rows * mask_probability)
    ratio_min, ratio_max = mask_ratio_tuple
    probs = torch.linspace(ratio_min, ratio_max, n_samples_masked + 1)
    upperbound = 0
    masks_list: list[Tensor] = []
    for prob_min, prob_max in pairwise(probs):
        ratio = prob_min + (prob_max - prob_min) * random.random()  # random.uniform's own formula
        masks_list.append(torch.from_numpy(mask_generator(int(n_tokens * ratio))))
        upperbound += int(n_tokens * prob_max)
    masks_list += [torch.from_numpy(mask_generator(0)) for _ in range(n_rows - n_samples_masked)]
    random.shuffle(masks_list)
    return masks_list, upperbound
