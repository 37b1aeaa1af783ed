"""What the official stack and `port` answer alike, since `port` keeps official's signatures and names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "SCHEDULES",
    "centered_targets",
    "copied_state",
    "held_state",
    "moments",
    "optimizer_rows",
    "optimizer_with",
    "recorded_counts",
    "settled_centers",
    "snapshot",
    "state_parts",
]

SCHEDULES = ("lr", "wd", "momentum", "teacher_temp", "last_layer_lr")
"""The schedules in the order in which official builds them (`dinov2/train/train.py:103-109`)."""

_MULTIPLIERS = ("lr_multiplier", "wd_multiplier", "is_last_layer")


def copied_state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's state dict, outside of any graph."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def recorded_counts(
    collate: Callable[..., Any], n_rows: int, n_tokens: int, ratios: Sequence[float], probability: float
) -> list[int]:
    """Return what a collate function asks of its mask generator for `n_rows` global crops, in order.

    Args:
        collate: with the arguments of `dinov2/data/collate.py:10`.
        n_rows: number of global crops.
        n_tokens: patches of a crop.
        ratios: smallest and largest mask ratio.
        probability: share of masked crops.
    """
    asked: list[int] = []

    def record(count: int = 0) -> np.ndarray:
        asked.append(int(count))
        return np.zeros((1, n_tokens), dtype=bool)

    crop = torch.zeros(3, 1, 1)
    samples = [({"global_crops": [crop], "local_crops": [crop]}, ())] * n_rows
    collate(samples, tuple(ratios), probability, torch.float32, n_tokens=n_tokens, mask_generator=record)
    return asked


def centered_targets(
    loss: Any, kind: str, teacher_outputs: Sequence[Tensor], teacher_temp: float
) -> tuple[list[Tensor], Tensor]:
    """Return the targets of successive batches, and the centre (K,) with the last update applied.

    Args:
        loss: a DINO or iBOT loss with official's methods.
        kind: `dino` or `ibot`; the latter takes batches as (1, M, K) (`dinov2/train/ssl_meta_arch.py:207-214`).
        teacher_outputs: logits (M, K) of each batch.
        teacher_temp: temperature.
    """
    targets = []
    for output in teacher_outputs:
        batch = output if kind == "dino" else output.unsqueeze(0)
        target = loss.softmax_center_teacher(batch, teacher_temp=teacher_temp)
        targets.append(target if kind == "dino" else target.squeeze(0))
        loss.update_center(batch)
    loss.apply_center_update()
    center: Tensor = loss.center
    return targets, center.flatten()


def optimizer_rows(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """Return lr, weight decay, multipliers and group of every parameter of an optimizer, by name.

    Args:
        optimizer: with groups as official builds them.
        names: parameter name by `id(parameter)`.
    """
    return {
        names[id(parameter)]: {
            "lr": float(group["lr"]),
            "weight_decay": float(group["weight_decay"]),
            **{key: group[key] for key in _MULTIPLIERS if key in group},
            "group": index,
        }
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }


def moments(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, dict[str, Tensor]]:
    """Return AdamW's moments by parameter name: the only trace that its betas leave in one step.

    Args:
        optimizer: after its step.
        names: parameter name by `id(parameter)`.
    """
    state = {names[id(parameter)]: values for parameter, values in optimizer.state.items()}
    return {
        part: {name: values[part].detach().clone() for name, values in state.items() if part in values}
        for part in ("exp_avg", "exp_avg_sq")
    }


def state_parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return copies of a model's state in the parts that `training_step` returns."""
    copies = {name: value.detach().clone() for name, value in state.items()}
    return {
        "parameters": {k: v for k, v in copies.items() if k.startswith("student.")},
        "teacher": {k: v for k, v in copies.items() if k.startswith("teacher.")},
        "centers": {k: v for k, v in copies.items() if k.endswith("center")},
    }


def settled_centers(model: nn.Module) -> dict[str, Tensor]:
    """Return the centres of a model's losses as the next step will use them, and leave the model alone.

    Both losses keep an update pending until their next use (Q14). It is applied here to shallow copies, so that a
    training that goes on does not notice.
    """
    centers: dict[str, Tensor] = {}
    for name in ("dino_loss", "ibot_patch_loss"):
        loss = getattr(model, name, None)
        if loss is not None:
            settled = copy.copy(loss)
            settled._buffers = dict(loss._buffers)
            settled.apply_center_update()
            centers[f"{name}.center"] = settled.center.detach().clone()
    return centers


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """Return copies of everything that a training carries from one step to the next.

    Args:
        model: official's `SSLMetaArch`, or one with its names.
        optimizer: over the student.
        names: parameter name by `id(parameter)`.
    """
    centers = settled_centers(model)
    return {**state_parts(model.state_dict()), **moments(optimizer, names), "centers": centers}


def held_state(model: nn.Module, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """Return copies of what a checkpoint must bring back, by name: `model`, `exp_avg`, `exp_avg_sq` and `step`.

    Args:
        model: official's `SSLMetaArch`, or one with its names.
        optimizer: AdamW over the student.
        names: of the student's parameters by `id(parameter)`.
    """
    steps = {names[id(p)]: torch.as_tensor(values["step"]).clone() for p, values in optimizer.state.items()}
    state = copied_state(model)
    return {"model": state, **moments(optimizer, names), "step": steps}


def optimizer_with(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], held: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Give an optimizer the moments and step counts of `held_state`, parameter by parameter.

    Raises:
        KeyError: they lack one of the optimizer's parameters.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            optimizer.state[parameter] = {key: held[key][name].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
