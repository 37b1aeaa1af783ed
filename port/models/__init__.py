"""The backbone and the head, equal bit for bit to official ones in fp32 on a CPU, without xformers."""

from __future__ import annotations

from port.models.architectures import ARCHITECTURES, Architecture, build_backbone, build_model
from port.models.block import blocks_in_official_order
from port.models.chunks import BlockChunk, flat_blocks
from port.models.dino_head import DINOHead, LogitFactors
from port.models.features import Features
from port.models.vision_transformer import DinoVisionTransformer

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "BlockChunk",
    "DINOHead",
    "DinoVisionTransformer",
    "Features",
    "LogitFactors",
    "blocks_in_official_order",
    "build_backbone",
    "build_model",
    "flat_blocks",
]
