"""timm's layout: a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from port.models import DinoVisionTransformer
from port.weights.extras import require
from port.weights.huggingface import MEAN, STD
from port.weights.source import ExportSource
from port.weights.verify import Run

__all__ = ["load", "stored", "to_timm", "write"]

PURPOSE = "the timm layout"
# timm's sizes of DINOv2, by features; a size of its own is told to the nearest.
SIZES = {384: "small", 768: "base", 1024: "large"}


def write(source: ExportSource, folder: Path) -> list[str]:
    """Write `config.json` and `model.safetensors`, and return what the user should know.

    Args:
        source: what to export.
        folder: exists.

    Raises:
        ValueError: timm cannot express this architecture.
        ImportError: safetensors is not installed.
    """
    safetensors = require("safetensors.torch", PURPOSE)
    if source.facts.ffn == "identity":
        raise ValueError("timm's DINOv2 models have no identity feed-forward layer: export to hub instead")
    architecture, args = _model_args(source)
    safetensors.save_file(to_timm(source), folder / "model.safetensors", metadata={"format": "pt"})
    size = source.image_size
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": source.size.embed_dim,
        "global_pool": "token",
        "model_args": args,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": list(MEAN),
            "std": list(STD),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    notes = [
        'load with timm.create_model("local-dir:FOLDER", pretrained=True); the arguments are in config.json',
        "timm has no mask token: it is left out, and only masked images need it",
    ]
    offset, antialias = source.backbone.interpolate_offset, source.backbone.interpolate_antialias
    if offset or not antialias:
        notes.append(
            f"for images other than {size} pixels, with dynamic_img_size, timm resizes positions with offset 0 and "
            f"antialias True, where the backbone has {offset} and {antialias}: outputs then differ, the more so the "
            "less smooth the positions are"
        )
    return notes


def load(folder: Path, dtype: torch.dtype) -> Run:
    """Load the folder as a user would.

    Raises:
        ImportError: timm is not installed.
    """
    library = require("timm", PURPOSE)
    model = library.create_model(f"local-dir:{folder}", pretrained=True).eval().to(dtype)
    first_patch = model.num_prefix_tokens

    def run(images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        if masks is not None:
            raise ValueError("timm has no mask token; run without masks")
        tokens = model.forward_features(images)
        return tokens[:, 0], tokens[:, first_patch:]

    return run


def stored(source: ExportSource) -> DinoVisionTransformer:
    """Return the backbone with the CLS token's position in the token where timm has no place for it: with registers."""
    if not source.facts.registers:
        return source.backbone
    backbone = copy.deepcopy(source.backbone)
    backbone.cls_token.data += backbone.pos_embed.data[:, :1]
    backbone.pos_embed.data[:, :1] = 0
    return backbone


def to_timm(source: ExportSource) -> dict[str, Tensor]:
    """Return the backbone's tensors in timm's names.

    With registers, timm adds positions to patches only (`no_embed_class`), so the CLS token's position goes into
    the token: the sum that the backbone forms for every image. Biases that timm has with any are 0 where missing.
    """
    state: dict[str, Tensor] = dict(stored(source).state_dict())
    del state["mask_token"]
    if source.facts.registers:
        state["reg_token"] = state.pop("register_tokens")
        state["pos_embed"] = state["pos_embed"][:, 1:].contiguous()
    state = {k.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): v for k, v in state.items()}
    if _any_bias(source):
        for i in range(source.backbone.n_blocks):
            for linear in ("attn.proj", "mlp.fc1", "mlp.fc2"):
                weight = state[f"blocks.{i}.{linear}.weight"]
                state.setdefault(f"blocks.{i}.{linear}.bias", weight.new_zeros(weight.shape[0]))
    return state


def _any_bias(source: ExportSource) -> bool:
    """Whether timm's `proj_bias` is set, which is for attention's output and the feed-forward layer together."""
    return source.facts.proj_bias or source.facts.ffn_bias


def _model_args(source: ExportSource) -> tuple[str, dict[str, Any]]:
    """Return the timm model to start from and what to change, everything that JSON can hold."""
    facts, size = source.facts, source.size
    args: dict[str, Any] = {
        "img_size": source.image_size,
        "patch_size": facts.patch_size,
        "embed_dim": size.embed_dim,
        "depth": size.depth,
        "num_heads": size.num_heads,
        "mlp_ratio": size.mlp_ratio,
        # 0 and not None, which timm takes for "as in the named model".
        "init_values": 1e-5 if facts.layer_scale else 0,
        "qkv_bias": facts.qkv_bias,
        "proj_bias": _any_bias(source),
        "reg_tokens": facts.registers,
        "no_embed_class": facts.registers > 0,
    }
    name = SIZES.get(size.embed_dim, "small")
    if facts.ffn == "swiglufused":
        # Only this model has the gated layer; its ratio is of both halves, and timm rounds down.
        name = "giant"
        rows = source.backbone.state_dict()["blocks.0.mlp.w12.weight"].shape[0]
        args["mlp_ratio"] = (rows + 0.25) / size.embed_dim
    registers = "_reg4" if facts.registers else ""
    return f"vit_{name}_patch14{registers}_dinov2", args
