"""Data: block masks and the collate function."""

from __future__ import annotations

from port.data.collate import Batch, collate_data_and_cast
from port.data.masking import MaskingGenerator, max_num_patches

__all__ = ["Batch", "MaskingGenerator", "collate_data_and_cast", "max_num_patches"]
