"""The losses of DINOv2: DINO on CLS tokens, iBOT on masked patches, KoLeo on CLS features; and a prototype loss."""

from __future__ import annotations

from port.losses.dino import DINOLoss
from port.losses.ibot import iBOTPatchLoss
from port.losses.koleo import KoLeoLoss
from port.losses.prototype import LinearPrototypeBank, PrototypeLoss, PrototypeTerms

__all__ = ["DINOLoss", "KoLeoLoss", "LinearPrototypeBank", "PrototypeLoss", "PrototypeTerms", "iBOTPatchLoss"]
