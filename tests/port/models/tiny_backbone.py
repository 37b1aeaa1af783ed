"""A backbone of two blocks in double precision, and images for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from port.models import DinoVisionTransformer

__all__ = ["DOUBLE", "images", "tiny_backbone"]

DOUBLE = torch.float64


def tiny_backbone(**changes: Any) -> DinoVisionTransformer:
    """Return two blocks of 8 features on 4 x 4 patches of 4 pixels, in double precision, weights not tiny."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "block_chunks": 0}
    torch.manual_seed(0)
    model = DinoVisionTransformer(**{**sizes, **changes}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=DOUBLE) * 0.2)
    return model


def images(b: int, height: int = 16, width: int | None = None) -> Tensor:
    """Return normally distributed images (b, 3, height, width), square unless told otherwise."""
    return torch.randn(b, 3, height, width or height, dtype=DOUBLE, generator=torch.Generator().manual_seed(b))
