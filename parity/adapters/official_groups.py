"""Official parameter groups: those of the model, in the optimizer, under the schedules, at any iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from parity.adapters.common import optimizer_rows
from parity.adapters.official_build import RealNumbers
from parity.adapters.official_step import Modules
from parity.names import canonical

__all__ = ["run_official_groups"]


def run_official_groups(
    reference: Modules, config: DictConfig, iterations: Sequence[int]
) -> dict[int, dict[str, dict[str, Any]]]:
    """Return lr, weight decay, multipliers and group of every parameter at the given iterations, by name.

    Args:
        reference: official modules, or those of a fork that kept them.
        config: official configuration, `optim.lr` already scaled; owned by the call.
        iterations: 0-based.
    """
    train = reference.module("train.train")
    with torch.device("meta"), RealNumbers():
        model = reference.module("train.ssl_meta_arch").SSLMetaArch(config)
    optimizer = train.build_optimizer(config, model.get_params_groups())
    schedules = train.build_schedulers(config)
    names = {id(p): canonical(name) for name, p in model.student.named_parameters()}
    table: dict[int, dict[str, dict[str, Any]]] = {}
    for iteration in iterations:
        lr, wd, _, _, last_layer_lr = (schedule[iteration] for schedule in schedules)
        train.apply_optim_scheduler(optimizer, lr, wd, last_layer_lr)
        table[iteration] = optimizer_rows(optimizer, names)
    return table
