"""Self-check of attention's stand-in: official's own attention, written for machines without xformers, is its judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parity.compare import SEMANTIC_FACTOR, Noise, judged
from parity.judge import perturbed
from parity.results import Comparison

__all__ = ["examine_attention"]

_SEQUENCES, _TOKENS, _WIDTH, _HEADS = 2, 17, 48, 3


def examine_attention(official: Any) -> Comparison:
    """Attention in float64 through xformers, or what stands for it, is what official computes without it.

    Args:
        official: the official stack; its `attention` is `dinov2/layers/attention.py:34-89`.
    """
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(_SEQUENCES, _TOKENS, _WIDTH, generator=generator, dtype=torch.float64)

    def attend(x: Tensor, *, xformers: bool) -> Tensor:
        found: Tensor = official.attention(x, _HEADS, xformers=xformers)
        return found

    plain, used = attend(x, xformers=False), attend(x, xformers=True)
    moved = attend(perturbed({"x": x}, 0)["x"], xformers=False)
    found = judged("doctor/attention", "T1", plain, used, Noise.between(moved, plain), SEMANTIC_FACTOR)
    told = f"attention differs from official's own without xformers by {found.error:.1e}, allowed {found.allowed:.1e}"
    return replace(found, note=told)
