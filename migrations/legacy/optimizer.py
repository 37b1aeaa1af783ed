"""Sections 6 and 7, "current": six groups, one learning rate, and a weight decay that only the first follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

__all__ = ["apply_schedules", "build_optimizer", "get_params_groups", "parameter_rows"]


def get_params_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return a module's trainable parameters as two groups: regularised, then not.

    A bias or a tensor of one dimension is not: the same set that official finds by name
    (`dinov2/utils/param_groups.py:80`). The first group has no weight decay of its own and so starts from
    AdamW's default, 0.01.
    """
    regularized: list[nn.Parameter] = []
    not_regularized: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        if param.requires_grad:
            spared = name.endswith(".bias") or param.ndim == 1
            (not_regularized if spared else regularized).append(param)
    return [{"params": regularized}, {"params": not_regularized, "weight_decay": 0.0}]


def build_optimizer(modules: Iterable[nn.Module], config: DictConfig) -> torch.optim.AdamW:
    """Return AdamW over two groups per module, in the order backbone, classhead, patchhead: 0 to 5.

    Official fuses parameters that share their multipliers (`dinov2/train/ssl_meta_arch.py:371-388`).

    Args:
        modules: the student's; there is no patchhead, and no group 4 and 5, where the DINO head is shared.
        config: official's keys; read are `optim.adamw_beta1` and `optim.adamw_beta2`.
    """
    groups = [group for module in modules for group in get_params_groups(module)]
    return torch.optim.AdamW(groups, betas=(config.optim.adamw_beta1, config.optim.adamw_beta2))


def apply_schedules(optimizer: torch.optim.Optimizer, lr: float, wd: float) -> None:
    """Set the learning rate of every group, and the weight decay of group 0 alone.

    Departs from `dinov2/train/train.py:113-119`: the heads' regularised groups keep AdamW's default, no layer
    has a multiplier, and the last layer is never frozen.
    """
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = lr
        if i == 0:
            group["weight_decay"] = wd


def parameter_rows(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], extras: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return what each parameter of an optimizer is updated with at present, by name.

    Args:
        optimizer: with its schedules applied.
        names: parameter name by `id(parameter)`.
        extras: further keys of a group to report.
    """
    return {
        names[id(param)]: {
            "lr": float(group["lr"]),
            "weight_decay": float(group["weight_decay"]),
            "group": index,
            **{key: group[key] for key in extras},
        }
        for index, group in enumerate(optimizer.param_groups)
        for param in group["params"]
    }
