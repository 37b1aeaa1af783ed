"""The network of `port` that a state dict's shapes describe, without memory: its names, shapes and their order.

Shapes: D embedding dimension, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from migrations.checkpoint.errors import CheckpointError
from port.models import DINOHead, DinoVisionTransformer
from port.optim import fuse_params_groups, get_params_groups_with_decay
from port.weights.facts import Facts, facts_of
from port.weights.names import canonical

__all__ = ["Layout", "Target", "build_target", "groups_of", "parse_layout"]

State = Mapping[str, Tensor]
_PARAMETRIZED = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


@dataclass(frozen=True)
class Layout:
    """How names are spelled.

    Attributes:
        chunks: number of block chunks, `blocks.CHUNK.BLOCK`; 0 for `blocks.BLOCK`.
        parametrized: weight normalisation as `parametrizations.weight.original0/1` instead of `weight_g/weight_v`.
    """

    chunks: int = 0
    parametrized: bool = False

    def spell(self, name: str) -> str:
        """Return a name of the model in this layout's spelling of weight normalisation."""
        prefix, _, last = name.rpartition(".")
        return f"{prefix}.{_PARAMETRIZED[last]}" if self.parametrized and last in _PARAMETRIZED else name


def parse_layout(text: str) -> Layout:
    """Return the layout that `flat`, `chunks=N`, `weight_g` and `parametrized`, joined by commas, mean.

    Raises:
        ValueError: a part is none of them.
    """
    chunks, parametrized = 0, False
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = part.partition("=")
        if key == "chunks" and value.isdecimal() and int(value) > 0:
            chunks = int(value)
        elif part in ("flat", "weight_g"):
            chunks, parametrized = (0, parametrized) if part == "flat" else (chunks, False)
        elif part == "parametrized":
            parametrized = True
        else:
            raise ValueError(f"layout {part!r}, expected flat, chunks=N, weight_g or parametrized, joined by commas")
    return Layout(chunks, parametrized)


@dataclass(frozen=True)
class Target:
    """A network of `port`.

    Attributes:
        modules: `backbone`, `dino_head` and, where there is one, `ibot_head`, on the meta device.
        names: the layout's name by canonical name, in the order of `state_dict()`.
        shapes: by canonical name.
        parameters: canonical names of `named_parameters()`, in order.
    """

    modules: Mapping[str, nn.Module]
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: tuple[str, ...]


def build_target(state: State, layout: Layout, where: str) -> Target:
    """Return the network that holds tensors of these canonical names and shapes.

    Raises:
        CheckpointError: the shapes are no backbone's or no head's.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    modules: dict[str, nn.Module] = {}
    for part in ("backbone", "dino_head", "ibot_head"):
        if part not in parts:
            continue
        build = _backbone if part == "backbone" else _head
        try:
            with torch.device("meta"):
                modules[part] = build(parts[part], layout)
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(f"{where}: {part} is not of the architecture that port has: {reason}") from error
    whole = nn.ModuleDict(modules)
    held = whole.state_dict()
    return Target(
        modules=modules,
        names={canonical(name): layout.spell(name) for name in held},
        shapes={canonical(name): tuple(value.shape) for name, value in held.items()},
        parameters=tuple(canonical(name) for name, _ in whole.named_parameters()),
    )


def groups_of(target: Target, layerwise_decay: float, patch_embed_lr_mult: float) -> list[dict[str, Any]]:
    """Return the parameter groups that `port` gives its optimizer, with canonical names in place of parameters."""
    groups: list[dict[str, Any]] = []
    for part, module in target.modules.items():
        names = {id(parameter): canonical(f"{part}.{name}") for name, parameter in module.named_parameters()}
        fused = fuse_params_groups(get_params_groups_with_decay(module, layerwise_decay, patch_embed_lr_mult))
        for group in fused:
            params = [names[id(parameter)] for parameter in group["params"]]
            # The two keys that `port.student_teacher` adds.
            groups.append({**group, "params": params, "foreach": True, "submodule": part})
    return groups


def _backbone(state: State, layout: Layout) -> nn.Module:
    facts = facts_of(state)
    positions = state["pos_embed"].shape[1] - 1
    side = math.isqrt(max(positions, 0))
    # Only the number of positions is a shape; the grid and the heads of attention are not in a checkpoint.
    grid = (side, side) if side * side == positions else (positions, 1)
    return DinoVisionTransformer(
        img_size=(grid[0] * facts.patch_size, grid[1] * facts.patch_size),
        patch_size=facts.patch_size,
        in_chans=state["patch_embed.proj.weight"].shape[1],
        embed_dim=facts.embed_dim,
        depth=facts.depth,
        num_heads=1,
        mlp_ratio=_mlp_ratio(state, facts),
        qkv_bias=facts.qkv_bias,
        ffn_bias=facts.ffn_bias,
        proj_bias=facts.proj_bias,
        init_values=1e-5 if facts.layer_scale else None,
        ffn_layer=facts.ffn,
        block_chunks=layout.chunks,
        num_register_tokens=facts.registers,
    )


def _mlp_ratio(state: State, facts: Facts) -> float:
    # The half keeps the model's int(D * ratio) from losing one to rounding.
    if facts.ffn == "mlp":
        return (state["blocks.0.mlp.fc1.weight"].shape[0] + 0.5) / facts.embed_dim
    if facts.ffn == "swiglufused":
        # SwiGLU takes two thirds of the hidden features, rounded up to a multiple of 8.
        return (state["blocks.0.mlp.w3.weight"].shape[1] * 1.5 + 0.5) / facts.embed_dim
    return 4.0


def _head(state: State, layout: Layout) -> nn.Module:
    linears = [value for name, value in state.items() if name.startswith("mlp.") and value.ndim == 2]
    if not linears:
        raise KeyError("mlp.0.weight")
    return DINOHead(
        in_dim=linears[0].shape[1],
        out_dim=state["last_layer.weight_v"].shape[0],
        use_bn=any(name.endswith("running_mean") for name in state),
        nlayers=len(linears),
        hidden_dim=linears[0].shape[0],
        bottleneck_dim=linears[-1].shape[0],
        mlp_bias=any(name.startswith("mlp.") and name.endswith(".bias") for name in state),
    )
