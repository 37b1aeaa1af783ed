"""What happens to a batch between the loader and the model."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from port.data.collate import Batch

__all__ = ["N_GLOBAL_CROPS", "batch_to_device", "check_batch"]

N_GLOBAL_CROPS = 2


def batch_to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`; copies from pinned memory do not block."""
    moved = {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()
    }
    return cast(Batch, moved)


def check_batch(batch: Batch, n_local: int) -> None:
    """Check that a batch fits a configuration.

    Args:
        batch: from `collate_data_and_cast`.
        n_local: `crops.local_crops_number`.

    Raises:
        ValueError: it does not.
    """
    n_images = batch["collated_global_crops"].shape[0] // N_GLOBAL_CROPS
    n_local_rows = batch["collated_local_crops"].shape[0]
    if n_local_rows != n_local * n_images:
        raise ValueError(
            f"collated_local_crops has {n_local_rows} rows, expected crops.local_crops_number * images = "
            f"{n_local} * {n_images}; configure augmentation and model alike"
        )
    n_masked_patches = batch["mask_indices_list"].shape[0]
    if n_masked_patches > batch["upperbound"]:
        raise ValueError(
            f"{n_masked_patches} patches are masked, expected at most upperbound = {batch['upperbound']}; "
            "draw masks with port.data.MaskingGenerator, which never exceeds its target"
        )
