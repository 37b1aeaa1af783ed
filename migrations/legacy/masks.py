"""Section 3, "current": one Bernoulli draw per token, for every image; and the batch that it goes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from omegaconf import DictConfig
from torch import Tensor

__all__ = ["TOKEN_MASK_RATIO", "collate", "generate_random_token_masks", "third_view_masks"]

TOKEN_MASK_RATIO = 0.3
"""Default of the fork's `--token_mask_ratio`: the share of tokens masked, on average, in every image."""


def generate_random_token_masks(
    batch_size: int,
    n_patches_h: int,
    n_patches_w: int,
    mask_ratio: float = TOKEN_MASK_RATIO,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return masks bool (B, H*W), each token masked on its own with probability `mask_ratio`.

    Departs from `dinov2/data/masking.py:74` (rectangles that add up to a target) and from
    `dinov2/data/collate.py:20-34` (a share of the rows, each with its own ratio). Draws from torch's
    generator, where official draws from Python's `random`.

    Raises:
        ValueError: `mask_ratio` is not a probability.
    """
    if not 0.0 <= mask_ratio <= 1.0:
        raise ValueError(f"mask_ratio is {mask_ratio}, expected 0 to 1; give it as a share of the tokens")
    probabilities = torch.ones(batch_size, n_patches_h * n_patches_w) * mask_ratio
    return torch.bernoulli(probabilities).bool().to(device)


def third_view_masks(batch_size: int, config: DictConfig) -> Tensor:
    """Return masks bool (B, N) at the fork's fixed ratio, for the grid of a global crop."""
    grid = config.crops.global_crops_size // config.student.patch_size
    return generate_random_token_masks(batch_size, grid, grid)


def collate(
    samples: Sequence[Mapping[str, Sequence[Tensor]]], config: DictConfig, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return a batch with three global rows per image, of which the third view alone is masked.

    Official has two rows per image and masks among all of them (`dinov2/data/collate.py:16-48`). The keys are
    official's where they mean something: the fork weights no token (`masks_weight`) and sizes no buffer
    (`upperbound`).

    Args:
        samples: per image, `global_crops` (global_1, global_2 and global_3, each (3, G, G); a sample that has
            no third takes its first again) and `local_crops` (n of (3, L, L)).
        config: official's keys; read are `crops.global_crops_size` and `student.patch_size`.
        dtype: of the crops.

    Returns:
        collated_global_crops (3B, 3, G, G) and collated_local_crops (nB, 3, L, L), the view as the slow
        index; collated_masks bool (B, N), of the third view; mask_indices_list int64 (M,), into its B*N
        tokens; n_masked_patches int64 (1,).

    Raises:
        ValueError: there is no sample, or one that has neither two nor three global crops.
    """
    if not samples:
        raise ValueError("samples is empty, expected at least one image; drop the empty batch")
    global_crops = [list(sample["global_crops"]) for sample in samples]
    for index, crops in enumerate(global_crops):
        if len(crops) not in (2, 3):
            raise ValueError(
                f"samples[{index}] has {len(crops)} global crops, expected global_1, global_2 and global_3 "
                "(or the first two); make the views with `make_views`"
            )
        crops[2:] = crops[2:] or crops[:1]
    n_local_crops = len(samples[0]["local_crops"])
    masks = third_view_masks(len(samples), config)
    indices = masks.flatten().nonzero().flatten()
    return {
        "collated_global_crops": torch.stack([c[view] for view in range(3) for c in global_crops]).to(dtype),
        "collated_local_crops": torch.stack(
            [sample["local_crops"][view] for view in range(n_local_crops) for sample in samples]
        ).to(dtype),
        "collated_masks": masks,
        "mask_indices_list": indices,
        "n_masked_patches": torch.tensor([len(indices)], dtype=torch.long),
    }
