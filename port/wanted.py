"""Which tokens the losses need: CLS tokens and masked patches, as rows of the backbone's tokens.

Shapes: B crops of one size, N patches of a crop, R register tokens, M masked patches. A crop's tokens are
[CLS, R registers, N patches], a batch's are those of its crops one after another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from port.models import DinoVisionTransformer

__all__ = ["cls_rows", "patch_rows"]


def cls_rows(backbone: DinoVisionTransformer, crops: Tensor) -> Tensor:
    """Return the rows of the CLS tokens of crops (B, C, height, width): int64 (B,), on their device."""
    return torch.arange(len(crops), device=crops.device) * _n_tokens(backbone, crops)


def patch_rows(backbone: DinoVisionTransformer, crops: Tensor, indices: Tensor) -> Tensor:
    """Return the rows of some patches.

    Args:
        backbone: whose registers stand between CLS token and patches.
        crops: (B, C, height, width).
        indices: int64 (M,), into the B * N patches.

    Returns:
        int64 (M,).
    """
    n_tokens = _n_tokens(backbone, crops)
    n_before = 1 + backbone.num_register_tokens
    n_patches = n_tokens - n_before
    return indices.div(n_patches, rounding_mode="floor") * n_tokens + n_before + indices % n_patches


def _n_tokens(backbone: DinoVisionTransformer, crops: Tensor) -> int:
    """Return 1 + R + N."""
    height, width = (side // backbone.patch_size for side in crops.shape[-2:])
    return 1 + backbone.num_register_tokens + height * width
