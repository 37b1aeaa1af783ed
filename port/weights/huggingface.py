"""transformers' layout: a folder that `Dinov2Model` or `Dinov2WithRegistersModel` loads with `from_pretrained`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from port.weights.extras import require
from port.weights.source import ExportSource
from port.weights.verify import Run

__all__ = ["load", "to_transformers", "write"]

PURPOSE = "the transformers layout"
# The spelling of transformers' files, which every version reads; the modules' own names changed in version 5.
NAMES = (
    (re.compile(r"^(cls_token|mask_token|register_tokens)$"), r"embeddings.\1"),
    (re.compile(r"^pos_embed$"), "embeddings.position_embeddings"),
    (re.compile(r"^patch_embed\.proj\."), "embeddings.patch_embeddings.projection."),
    (re.compile(r"^norm\."), "layernorm."),
    (re.compile(r"^blocks\."), "encoder.layer."),
    (re.compile(r"\.ls([12])\.gamma$"), r".layer_scale\1.lambda1"),
    (re.compile(r"\.attn\.proj\."), ".attention.output.dense."),
    (re.compile(r"\.mlp\.w12\."), ".mlp.weights_in."),
    (re.compile(r"\.mlp\.w3\."), ".mlp.weights_out."),
)
QKV = ("query", "key", "value")
# What torchvision's Normalize is given in `dinov2/data/transforms.py:43-44`.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def write(source: ExportSource, folder: Path) -> list[str]:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json`.

    Args:
        source: what to export.
        folder: exists.

    Returns:
        What the user should know.

    Raises:
        ValueError: transformers cannot express this architecture.
        ImportError: safetensors is not installed.
    """
    safetensors = require("safetensors.torch", PURPOSE)
    config = _config(source)
    safetensors.save_file(to_transformers(source), folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("config", config), ("preprocessor_config", _image_processor(source.image_size))):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    notes = [f"load with transformers.{config['architectures'][0]}.from_pretrained(FOLDER)"]
    offset = source.backbone.interpolate_offset
    antialias = source.facts.registers > 0
    if offset or source.backbone.interpolate_antialias != antialias:
        notes.append(
            f"for images other than {source.image_size} pixels transformers resizes positions with offset 0 and "
            f"antialias {antialias}, where the backbone has {offset} and {source.backbone.interpolate_antialias}: "
            "outputs then differ, the more so the less smooth the positions are"
        )
    if not source.facts.layer_scale:
        notes.append("transformers always has LayerScale; it is 1 here, which changes nothing")
    return notes


def load(folder: Path, dtype: torch.dtype) -> Run:
    """Load the folder as a user would.

    Raises:
        ValueError: a tensor is missing, or has no place in transformers' model.
        ImportError: transformers is not installed.
    """
    library = require("transformers", PURPOSE)
    with _quietly(library):
        config = library.AutoConfig.from_pretrained(folder)
        model_class = getattr(library, config.architectures[0])
        model, info = model_class.from_pretrained(folder, output_loading_info=True)
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if wrong:
        raise ValueError(f"{config.architectures[0]} does not take this backbone: {wrong}")
    model.eval().to(dtype)
    first_patch = 1 + getattr(config, "num_register_tokens", 0)

    def run(images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens = model(pixel_values=images, bool_masked_pos=masks).last_hidden_state
        return tokens[:, 0], tokens[:, first_patch:]

    return run


def to_transformers(source: ExportSource) -> dict[str, Tensor]:
    """Return the backbone's tensors in the names of transformers' files.

    What transformers always has and the backbone lacks is set to what changes nothing: LayerScale to 1, the
    biases of attention's output and of the feed-forward layer to 0.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in _completed(source).items():
        match = re.match(r"^blocks\.(\d+)\.attn\.qkv\.(weight|bias)$", name)
        if match:
            for part, rows in zip(QKV, value.chunk(3), strict=True):
                key = f"encoder.layer.{match.group(1)}.attention.attention.{part}.{match.group(2)}"
                renamed[key] = rows.contiguous()
            continue
        for pattern, replacement in NAMES:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    return renamed


def _completed(source: ExportSource) -> dict[str, Tensor]:
    state: dict[str, Tensor] = dict(source.backbone.state_dict())
    for i in range(source.backbone.n_blocks):
        block = f"blocks.{i}"
        for linear in ("attn.proj", *(("mlp.fc1", "mlp.fc2") if source.facts.ffn == "mlp" else ("mlp.w12", "mlp.w3"))):
            weight = state[f"{block}.{linear}.weight"]
            state.setdefault(f"{block}.{linear}.bias", weight.new_zeros(weight.shape[0]))
        for scale in ("ls1", "ls2"):
            state.setdefault(f"{block}.{scale}.gamma", torch.ones_like(state[f"{block}.norm1.weight"]))
    return state


def _config(source: ExportSource) -> dict[str, Any]:
    """Return `config.json`; what is not named has transformers' default, which is what the backbone has."""
    if source.facts.ffn == "identity":
        raise ValueError("transformers' Dinov2 has no identity feed-forward layer: export to hub instead")
    if source.size.mlp_ratio != int(source.size.mlp_ratio):
        raise ValueError(
            f"transformers' mlp_ratio is an integer, the backbone's {source.size.mlp_ratio}; export to hub"
        )
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": source.size.embed_dim,
        "num_hidden_layers": source.size.depth,
        "num_attention_heads": source.size.num_heads,
        "mlp_ratio": int(source.size.mlp_ratio),
        "image_size": source.image_size,
        "patch_size": source.facts.patch_size,
        "num_channels": 3,
        "qkv_bias": source.facts.qkv_bias,
        "use_swiglu_ffn": source.facts.ffn == "swiglufused",
        "layer_norm_eps": source.backbone.norm.eps,
        "hidden_act": "gelu",
        "layerscale_value": 1.0,
        "dtype": "float32",
    }
    if source.facts.registers:
        config["architectures"] = ["Dinov2WithRegistersModel"]
        config["model_type"] = "dinov2_with_registers"
        config["num_register_tokens"] = source.facts.registers
    return config


def _image_processor(size: int) -> dict[str, Any]:
    """Official's evaluation transform, bicubic to 8/7 of the crop (`dinov2/data/transforms.py:78`)."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size * 8 // 7},
        "resample": 3,  # PIL's bicubic
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


@contextmanager
def _quietly(library: Any) -> Iterator[None]:
    """Without transformers' progress bars, which it otherwise writes to the terminal."""
    logging = library.utils.logging
    active = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if active:
            logging.enable_progress_bar()
