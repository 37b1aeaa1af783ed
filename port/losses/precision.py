"""Losses in full precision under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["autocast_off", "product_dtype", "widened"]


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast on a device; on one that knows no autocast (meta), nothing is to be done."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def widened(tensor: Tensor) -> Tensor:
    """Return half precision as float32, and anything else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def product_dtype(weight: Tensor) -> torch.dtype:
    """Return the type in which a linear layer of this weight computes: autocast's where that is on."""
    kind = weight.device.type
    if weight.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return weight.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
