"""Backbones in the names of transformers and timm, turned into official ones.

Shapes: D embedding dimension, R registers, N patches, F hidden features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["to_official"]

_TRANSFORMERS_PREFIX = re.compile(r"^(?:dinov2|dinov2_with_registers)\.(?=embeddings\.|encoder\.|layernorm\.)")
# Both spellings of transformers: in its files, and in its modules since version 5.
_TRANSFORMERS = (
    (re.compile(r"^embeddings\.position_embeddings$"), "pos_embed"),
    (re.compile(r"^embeddings\.patch_embeddings\.projection\."), "patch_embed.proj."),
    (re.compile(r"^embeddings\.(cls_token|mask_token|register_tokens)$"), r"\1"),
    (re.compile(r"^layernorm\."), "norm."),
    (re.compile(r"^encoder\.layer\."), "blocks."),
    (re.compile(r"\.layer_scale([12])\.lambda1$"), r".ls\1.gamma"),
    (re.compile(r"\.attention\.(?:output\.dense|o_proj)\."), ".attn.proj."),
    (re.compile(r"\.attention\.(?:attention\.query|q_proj)\."), ".attn.qkv.0."),
    (re.compile(r"\.attention\.(?:attention\.key|k_proj)\."), ".attn.qkv.1."),
    (re.compile(r"\.attention\.(?:attention\.value|v_proj)\."), ".attn.qkv.2."),
    (re.compile(r"\.mlp\.weights_in\."), ".mlp.w12."),
    (re.compile(r"\.mlp\.gate_proj\."), ".mlp.w12.0."),
    (re.compile(r"\.mlp\.up_proj\."), ".mlp.w12.1."),
    (re.compile(r"\.mlp\.(?:weights_out|down_proj)\."), ".mlp.w3."),
)
_SPLIT = re.compile(r"\.(qkv|w12)\.([012])\.(weight|bias)$")


def to_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Rename a backbone's tensors to official names.

    Args:
        state: a backbone's tensors, canonical but for the library's own names.

    Returns:
        The renamed tensors, and whose names they had: `official`, `transformers` or `timm`.
    """
    state = {_TRANSFORMERS_PREFIX.sub("", key): value for key, value in state.items()}
    if any(key.startswith("embeddings.") for key in state):
        return _from_transformers(state), "transformers"
    gated = _gated_by_timm(state)
    if gated or "reg_token" in state or _without_class_position(state):
        return _from_timm(state, gated=gated), "timm"
    return state, "official"


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in _TRANSFORMERS:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    # Queries, keys and values, and the two halves of a gated layer, are rows of one matrix in official.
    pieces: dict[str, dict[int, Tensor]] = {}
    official: dict[str, Tensor] = {}
    for name, value in renamed.items():
        match = _SPLIT.search(name)
        if match:
            whole = f"{name[: match.start()]}.{match.group(1)}.{match.group(3)}"
            pieces.setdefault(whole, {})[int(match.group(2))] = value
        else:
            official[name] = value
    for whole, parts in pieces.items():
        official[whole] = torch.cat([parts[i] for i in sorted(parts)])
    return official


def _gated_by_timm(state: Mapping[str, Tensor]) -> bool:
    """Whether `fc1` (2 F, D) holds both halves of a gated layer whose `fc2` is (D, F)."""
    first, second = state.get("blocks.0.mlp.fc1.weight"), state.get("blocks.0.mlp.fc2.weight")
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def _without_class_position(state: Mapping[str, Tensor]) -> bool:
    """Whether `pos_embed` (1, N, D) lacks the CLS token's position, as with timm's `no_embed_class`."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3 or "mask_token" in state:  # timm has no mask token
        return False
    n = positions.shape[1]
    return math.isqrt(n) ** 2 == n and math.isqrt(n - 1) ** 2 != n - 1


def _from_timm(state: Mapping[str, Tensor], *, gated: bool) -> dict[str, Tensor]:
    renamed = dict(state)
    if "reg_token" in renamed:
        renamed["register_tokens"] = renamed.pop("reg_token")
    if _without_class_position(state):
        # timm has added the CLS token's position to the token itself.
        positions = renamed["pos_embed"]
        renamed["pos_embed"] = torch.cat((torch.zeros_like(positions[:, :1]), positions), dim=1)
    if gated:
        renamed = {k.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3."): v for k, v in renamed.items()}
    return renamed
