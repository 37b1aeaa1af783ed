"""What a backbone's tensors say about its architecture, and how two backbones differ.

Shapes: D embedding dimension, N patches, R registers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from port.models import ARCHITECTURES

__all__ = ["Facts", "differences", "facts_of", "first_conflict"]

_BLOCK = re.compile(r"^blocks\.(\d+)\.")

_FIRST_LINEAR = {"mlp": "fc1", "swiglufused": "w12"}


@dataclass(frozen=True)
class Facts:
    """An architecture, as far as the shapes of its tensors tell: heads and an MLP's ratio they do not.

    Attributes:
        embed_dim: D.
        depth: number of blocks.
        patch_size: side of a patch in pixels.
        registers: R.
        ffn: `mlp`, `swiglufused` or `identity`.
        layer_scale: whether blocks have LayerScale.
        qkv_bias: whether queries, keys and values have a bias.
        proj_bias: whether attention's output has one.
        ffn_bias: whether the feed-forward layer has one; True for `identity`.
    """

    embed_dim: int
    depth: int
    patch_size: int
    registers: int
    ffn: str
    layer_scale: bool
    qkv_bias: bool
    proj_bias: bool
    ffn_bias: bool

    @property
    def arch(self) -> str | None:
        """The `student.arch` of this size, None where there is none."""
        for name, size in ARCHITECTURES.items():
            if (size.embed_dim, size.depth) == (self.embed_dim, self.depth):
                return name
        return None

    @property
    def nearest_arch(self) -> str:
        """The `student.arch` whose width and depth differ by the smallest factors."""

        def distance(name: str) -> float:
            size = ARCHITECTURES[name]
            factors = (size.embed_dim / max(self.embed_dim, 1), size.depth / max(self.depth, 1))
            return sum(abs(math.log(factor)) for factor in factors)

        return min(ARCHITECTURES, key=distance)

    def __str__(self) -> str:
        size = f"{self.embed_dim} features, {self.depth} blocks"
        if self.arch:
            return f"{self.arch} ({size})"
        nearest = ARCHITECTURES[self.nearest_arch]
        return f"{size} (nearest: {self.nearest_arch} with {nearest.embed_dim} and {nearest.depth})"


def facts_of(state: Mapping[str, Tensor]) -> Facts:
    """Read the facts from flat official names.

    Raises:
        KeyError: `cls_token` or `patch_embed.proj.weight` is missing.
    """
    depth = 1 + max((int(match.group(1)) for key in state if (match := _BLOCK.match(key))), default=-1)
    ffn = "identity"
    if "blocks.0.mlp.fc1.weight" in state:
        ffn = "mlp"
    elif "blocks.0.mlp.w12.weight" in state:
        ffn = "swiglufused"
    registers = state.get("register_tokens")
    return Facts(
        embed_dim=state["cls_token"].shape[-1],
        depth=depth,
        patch_size=state["patch_embed.proj.weight"].shape[-1],
        registers=0 if registers is None else registers.shape[1],
        ffn=ffn,
        layer_scale="blocks.0.ls1.gamma" in state,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        proj_bias="blocks.0.attn.proj.bias" in state,
        ffn_bias=ffn == "identity" or f"blocks.0.mlp.{_FIRST_LINEAR[ffn]}.bias" in state,
    )


def differences(file: Facts, model: Facts) -> tuple[list[str], list[str]]:
    """Return what differs, in words, and the settings with which the model would be the file's."""
    said: list[str] = []
    settings: list[str] = []

    def differ(what: str, of_file: object, of_model: object, setting: str) -> None:
        if of_file != of_model:
            said.append(f"{what} {of_file} in the file, {of_model} in the model")
            settings.append(setting)

    if (file.embed_dim, file.depth) != (model.embed_dim, model.depth):
        said.append(f"the file is {file}, the model {model}")
        settings += [f"student.arch={file.arch}"] if file.arch else []
    differ("patch size", file.patch_size, model.patch_size, f"student.patch_size={file.patch_size}")
    differ("register tokens", file.registers, model.registers, f"student.num_register_tokens={file.registers}")
    differ("feed-forward layer", file.ffn, model.ffn, f"student.ffn_layer={file.ffn}")
    layer_scale = "student.layerscale=1.0e-05" if file.layer_scale else "student.layerscale=0"
    differ("LayerScale", _yes(file.layer_scale), _yes(model.layer_scale), layer_scale)
    for name in ("qkv_bias", "proj_bias", "ffn_bias"):
        of_file, of_model = getattr(file, name), getattr(model, name)
        differ(name, _yes(of_file), _yes(of_model), f"student.{name}={str(of_file).lower()}")
    return said, settings


def first_conflict(file: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> str | None:
    """Name the first tensor whose shape differs, or that only one of the two has, with both shapes; None if none does.

    The number of positions may differ, since they can be resized.
    """
    for name in [*model, *(name for name in file if name not in model)]:
        shapes = [tuple(state[name].shape) if name in state else None for state in (file, model)]
        if name == "pos_embed" and all(shapes):
            shapes = [shape[-1:] for shape in shapes if shape]
            if shapes[0] == shapes[1]:
                continue
        if shapes[0] != shapes[1]:
            of_file, of_model = (shape or "absent" for shape in shapes)
            return f"{name} is {of_file} in the file and {of_model} in the model"
    return None


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"
