"""Official's hub layout: a flat state dict, and a card that says how to build the model for it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from port.models import DinoVisionTransformer
from port.weights.source import ExportSource
from port.weights.verify import Run, run_backbone

__all__ = ["WEIGHTS", "load", "write"]

WEIGHTS = "backbone.pth"
CARD = "backbone.json"
# `dinov2/hub/backbones.py:68-107`: the entry of each size, and the only feed-forward layer that it can build.
ENTRIES = {
    "vit_small": ("dinov2_vits14", None),
    "vit_base": ("dinov2_vitb14", None),
    "vit_large": ("dinov2_vitl14", None),
    "vit_giant2": ("dinov2_vitg14", "swiglufused"),
}


def write(source: ExportSource, folder: Path) -> list[str]:
    """Write `backbone.pth` and `backbone.json`, and return what the user should know.

    The state dict loads strictly into official `dinov2/models/vision_transformer.py:45` with the card's
    `kwargs`, and into the hub's entry where there is one.

    Args:
        source: what to export.
        folder: exists.
    """
    torch.save(source.backbone.state_dict(), folder / WEIGHTS)
    facts = source.facts
    options: dict[str, Any] = {
        "img_size": source.image_size,
        "patch_size": facts.patch_size,
        # Official asks only whether there is LayerScale; its values are in the state dict.
        "init_values": 1.0 if facts.layer_scale else None,
        "ffn_layer": facts.ffn,
        "block_chunks": 0,
        "qkv_bias": facts.qkv_bias,
        "proj_bias": facts.proj_bias,
        "ffn_bias": facts.ffn_bias,
        "num_register_tokens": facts.registers,
        "interpolate_antialias": source.backbone.interpolate_antialias,
        "interpolate_offset": source.backbone.interpolate_offset,
    }
    call = _hub_call(source.arch, options)
    card = {
        "arch": source.arch,
        "hub": call,
        "kwargs": {**options, **asdict(source.size)},
        "patch_grid": list(source.backbone.patch_embed.patches_resolution),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    build = call or f"DinoVisionTransformer with the kwargs in {CARD} and MemEffAttention (no hub entry has this size)"
    return [f"build with {build}; then load_state_dict(torch.load({WEIGHTS!r}))"]


def load(folder: Path, dtype: torch.dtype) -> Run:
    """Build the model from the card and load the state dict strictly."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    model = DinoVisionTransformer(**card["kwargs"])
    model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    return run_backbone(model.eval().to(dtype))


def _hub_call(arch: str, options: dict[str, Any]) -> str | None:
    """Return the call that builds the model through torch.hub, None where no entry can."""
    entry, only_ffn = ENTRIES.get(arch.removesuffix("_memeff"), (None, None))
    if entry is None or only_ffn not in (None, options["ffn_layer"]):
        return None
    # Such an entry sets the layer itself, and refuses to be told.
    given = ", ".join(f"{name}={value!r}" for name, value in options.items() if name != "ffn_layer" or not only_ffn)
    return f'torch.hub.load("facebookresearch/dinov2", "{entry}", pretrained=False, {given})'
