"""Self-checks by official code's own other forms: it computes some things twice, in ways that must agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parity.compare import SEMANTIC_FACTOR, Noise, judged
from parity.judge import perturbed
from parity.results import Comparison

__all__ = ["examine_attention", "examine_ibot"]

_SEQUENCES, _TOKENS, _WIDTH, _HEADS = 2, 17, 48, 3
_CROPS, _PATCHES, _PROTOTYPES = 4, 9, 7


def examine_attention(official: Any) -> Comparison:
    """Attention in float64 through xformers, or what stands for it, is what official computes without it.

    Args:
        official: the official stack; its `attention` is `dinov2/layers/attention.py:34-89`.
    """
    x = torch.randn(_SEQUENCES, _TOKENS, _WIDTH, generator=_generator(), dtype=torch.float64)

    def attend(x: Tensor, *, xformers: bool) -> Tensor:
        found: Tensor = official.attention(x, _HEADS, xformers=xformers)
        return found

    plain, used = attend(x, xformers=False), attend(x, xformers=True)
    moved = attend(perturbed({"x": x}, 0)["x"], xformers=False)
    return _told("attention", "attention differs from official's own without xformers", plain, used, moved)


def examine_ibot(official: Any) -> Comparison:
    """The loss of masked tokens in float64 is official's loss of whole crops, with weights given and with none.

    This is what parity believes of the arguments: rows in the masks' order, and weights of one over the count.

    Args:
        official: the official stack; its `ibot_dense` is `dinov2/loss/ibot_patch_loss.py:92-101`.
    """
    generator = _generator()
    shape = (_CROPS, _PATCHES, _PROTOTYPES)
    given = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name in ("student", "teacher")}
    # 1, 2, 4 and 8 of the patches: official's own weights are float32, in which these are exact.
    order = torch.rand(shape[:2], generator=generator).argsort(-1).argsort(-1)
    masks = order < 2 ** torch.arange(_CROPS)[:, None]
    weights = (1 / masks.sum(-1, keepdim=True).double()).expand_as(masks)[masks]

    def dense(student: Tensor, teacher: Tensor) -> Tensor:
        found: Tensor = official.ibot_dense(student, teacher.softmax(-1), masks)
        return found.reshape(1)

    def masked(weight: Tensor | None) -> Tensor:
        targets = given["teacher"].softmax(-1)[masks]
        found: Tensor = official.ibot_loss(given["student"][masks], targets, masks, int(masks.sum()), weight)
        return found.reshape(1)

    whole = dense(**given).repeat(2)
    moved = dense(**perturbed(given, 0)).repeat(2)
    parts = torch.cat([masked(weights), masked(None)])
    return _told("ibot", "the loss of masked tokens differs from official's of whole crops", whole, parts, moved)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _told(name: str, words: str, base: Tensor, other: Tensor, moved: Tensor) -> Comparison:
    found = judged(f"doctor/{name}", "T1", base, other, Noise.between(moved, base), SEMANTIC_FACTOR)
    return replace(found, note=f"{words} by {found.error:.1e}, allowed {found.allowed:.1e}")
