"""Which tokens the losses need: CLS tokens and masked patches, as rows of the backbone's tokens.

Shapes: B crops of one size, N patches of a crop, R register tokens, M masked patches. A crop's tokens are
[CLS, R registers, N patches], a batch's are those of its crops one after another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["cls_rows", "patch_rows"]


def cls_rows(backbone: Any, crops: Tensor) -> Tensor:
    """Return the rows of the CLS tokens.

    Args:
        backbone: a `DinoVisionTransformer`, wrapped or not.
        crops: (B, C, height, width).

    Returns:
        int64 (B,), on the crops' device.
    """
    return torch.arange(len(crops), device=crops.device) * _n_tokens(backbone, crops)


def patch_rows(backbone: Any, crops: Tensor, indices: Tensor) -> Tensor:
    """Return the rows of some patches.

    Args:
        backbone: whose registers stand between CLS token and patches.
        crops: (B, C, height, width).
        indices: int64 (M,), into the B * N patches.

    Returns:
        int64 (M,).
    """
    n_tokens = _n_tokens(backbone, crops)
    n_before: int = 1 + backbone.num_register_tokens
    n_patches = n_tokens - n_before
    return indices.div(n_patches, rounding_mode="floor") * n_tokens + n_before + indices % n_patches


def _n_tokens(backbone: Any, crops: Tensor) -> int:
    """Return 1 + R + N."""
    size: int = backbone.patch_size
    registers: int = backbone.num_register_tokens
    height, width = crops.shape[-2:]
    return 1 + registers + (height // size) * (width // size)
