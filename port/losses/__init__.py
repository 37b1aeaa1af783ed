"""The three losses of DINOv2: DINO on CLS tokens, iBOT on masked patches, KoLeo on CLS features."""

from __future__ import annotations

from port.losses.dino import DINOLoss
from port.losses.ibot import iBOTPatchLoss
from port.losses.koleo import KoLeoLoss

__all__ = ["DINOLoss", "KoLeoLoss", "iBOTPatchLoss"]
