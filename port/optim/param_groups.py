"""Parameter groups: layer-wise learning rates, and which parameters weight decay leaves alone.

Multipliers are constants of a parameter; `apply_optim_scheduler` multiplies them by the scheduled lr and
wd.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

__all__ = [
    "adamw_kernel",
    "build_optimizer",
    "describe_groups",
    "fuse_params_groups",
    "get_params_groups_with_decay",
    "get_vit_lr_decay_rate",
]

Group = dict[str, Any]

EMBEDDINGS = ("pos_embed", "patch_embed", "mask_token", "cls_token", "register_tokens")
FUSED_DEVICES = ("cpu", "cuda")
"""Devices for which every supported torch has a fused AdamW in all its float types."""
# DDP, torch.compile, FSDP1 and activation checkpointing each add one of these to the names below them.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def get_vit_lr_decay_rate(
    name: str,
    lr_decay_rate: float = 1.0,
    num_layers: int = 12,
    force_is_backbone: bool = False,
    chunked_blocks: bool = False,
) -> float:
    """Return the layer-wise lr multiplier of a parameter (`dinov2/utils/param_groups.py:13`).

    Embeddings are layer 0, block i is layer i + 1, all else is layer `num_layers` + 1, whose multiplier is 1.

    Args:
        name: parameter name; wrapper prefixes are ignored. Official reads the chunk index in place of the
            block index where a chunked name has any prefix (Q37).
        lr_decay_rate: multiplier from one layer to the layer below it.
        num_layers: number of transformer blocks.
        force_is_backbone: the name is a backbone's even if it does not start with `backbone`.
        chunked_blocks: blocks are named `blocks.CHUNK.BLOCK` instead of `blocks.BLOCK`.
    """
    name = _without_wrappers(name)
    layer_id = num_layers + 1
    if name.startswith("backbone") or force_is_backbone:
        if any(embedding in name for embedding in EMBEDDINGS):
            layer_id = 0
        elif "blocks." in name and "residual." not in name:
            indices = name[name.find("blocks.") :].split(".")[1:]
            layer_id = int(indices[1 if chunked_blocks else 0]) + 1
    return float(lr_decay_rate ** (num_layers + 1 - layer_id))


def get_params_groups_with_decay(
    model: nn.Module, lr_decay_rate: float = 1.0, patch_embed_lr_mult: float = 1.0
) -> list[Group]:
    """Return one group per trainable parameter of a backbone or a head (`dinov2/utils/param_groups.py:56`).

    Weight decay leaves alone biases and every name that holds `norm` or `gamma`. It does apply to the CLS,
    mask and register tokens, to position embeddings (Q39) and to the last layer's `weight_g` (Q9).

    Args:
        model: a backbone (it has `n_blocks` or `blocks`, or a `backbone` that has) or a head.
        lr_decay_rate: multiplier from one layer to the layer below it.
        patch_embed_lr_mult: further multiplier for the patch embedding.

    Returns:
        Groups with `params` (one parameter), `is_last_layer`, `lr_multiplier`, `wd_multiplier`, `name`.
    """
    n_blocks, chunked_blocks = _block_layout(_unwrapped(model))
    groups: list[Group] = []
    for wrapped_name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        name = _without_wrappers(wrapped_name)
        lr_multiplier = get_vit_lr_decay_rate(
            name, lr_decay_rate, n_blocks, force_is_backbone=n_blocks > 0, chunked_blocks=chunked_blocks
        )
        if "patch_embed" in name:
            lr_multiplier *= patch_embed_lr_mult
        undecayed = name.endswith(".bias") or "norm" in name or "gamma" in name
        groups.append(
            {
                "params": param,
                "is_last_layer": "last_layer" in name,
                "lr_multiplier": lr_multiplier,
                "wd_multiplier": 0.0 if undecayed else 1.0,
                "name": name,
            }
        )
    return groups


def fuse_params_groups(
    all_params_groups: Iterable[Group],
    keys: Sequence[str] = ("lr_multiplier", "wd_multiplier", "is_last_layer"),
) -> list[Group]:
    """Join groups that agree in `keys`, in order of first appearance (`dinov2/utils/param_groups.py:92`).

    Returns:
        Groups with `params` (a list) and `keys`.
    """
    fused: dict[tuple[Any, ...], Group] = {}
    for group in all_params_groups:
        identifier = tuple(group[key] for key in keys)
        joined = fused.setdefault(identifier, {"params": [], **{key: group[key] for key in keys}})
        joined["params"].append(group["params"])
    return list(fused.values())


def build_optimizer(cfg: DictConfig, params_groups: Iterable[Group]) -> torch.optim.AdamW:
    """Return AdamW over the groups (`dinov2/train/train.py:59`).

    Learning rate and weight decay stay at torch's defaults until `apply_optim_scheduler` sets them.
    """
    betas = (cfg.optim.adamw_beta1, cfg.optim.adamw_beta2)
    return torch.optim.AdamW(list(params_groups), betas=betas)


def adamw_kernel(params: Iterable[Tensor], *, fast: bool) -> dict[str, bool]:
    """Return the options of a parameter group that choose AdamW's kernel.

    Official asks for the one that works on lists of tensors (`dinov2/train/ssl_meta_arch.py:381`), in several passes.
    The fused one takes one pass; it differs by rounding, and torch has it for some devices only.

    Args:
        params: of the group, on the device where they will be stepped.
        fast: whether to prefer the fused kernel.
    """
    if fast and all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in params):
        return {"foreach": False, "fused": True}
    return {"foreach": True}


def describe_groups(optimizer: torch.optim.Optimizer) -> str:
    """Return one line: how many tensors and parameters are decayed, and how many are not."""
    n_tensors = {True: 0, False: 0}
    n_parameters = {True: 0, False: 0}
    for group in optimizer.param_groups:
        decayed = group["wd_multiplier"] != 0
        n_tensors[decayed] += len(group["params"])
        n_parameters[decayed] += sum(param.numel() for param in group["params"])
    return (
        f"{len(optimizer.param_groups)} parameter groups; "
        f"weight decay on {n_tensors[True]} tensors ({n_parameters[True]:,} parameters), "
        f"none on {n_tensors[False]} tensors ({n_parameters[False]:,} parameters)"
    )


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Follow wrappers inwards, as they do not all pass on `n_blocks`."""
    children = dict(model.named_children())
    inner = next((children[wrapper] for wrapper in WRAPPERS if wrapper in children), None)
    return model if inner is None else _unwrapped(inner)


def _block_layout(model: nn.Module) -> tuple[int, bool]:
    """Return (number of blocks, whether they are chunked); a head has none."""
    n_blocks: int | None = getattr(model, "n_blocks", None)
    if n_blocks is not None:
        return n_blocks, bool(model.chunked_blocks)
    owner = model if hasattr(model, "blocks") else getattr(model, "backbone", None)
    return len(getattr(owner, "blocks", ())), False
