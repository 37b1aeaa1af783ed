"""The document's six groups: a backbone and two heads, each with a decayed and a spared group."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

BUILDER = """
import torch


def get_params_groups(model):
    regularized, not_regularized = [], []
    for name, param in model.named_parameters():
        if name.endswith(".bias") or len(param.shape) == 1:
            not_regularized.append(param)
        else:
            regularized.append(param)
    return [{"params": regularized}, {"params": not_regularized, "weight_decay": 0.0}]


def build_optimizer(student):
    return torch.optim.AdamW(
        [
            *get_params_groups(student.backbone),
            *get_params_groups(student.classhead),
            *get_params_groups(student.patchhead),
        ]
    )


"""
LOOP = """
def train(student, lr_schedule, wd_schedule, it):
    optimizer = build_optimizer(student)
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = lr_schedule[it]
        if i == 0:
            group["weight_decay"] = wd_schedule[it]
    return optimizer
"""
MENDED = """
def train(student, lr_schedule, wd_schedule, it):
    optimizer = build_optimizer(student)
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = lr_schedule[it]
        group.setdefault("wd_multiplier", float(group["weight_decay"] != 0))
        group["weight_decay"] = wd_schedule[it] * group["wd_multiplier"]
    return optimizer
"""


class Student(nn.Module):
    """A backbone and two heads of a linear each, so that two groups each are not empty."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.classhead, self.patchhead = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)


def decays(optimizer: torch.optim.Optimizer) -> list[float]:
    """The weight decay of each group."""
    return [float(group["weight_decay"]) for group in optimizer.param_groups]


def trained(names: dict[str, Any], wd: float) -> list[float]:
    """What `train` leaves as weight decays, in its first iteration."""
    return decays(names["train"](Student(), [1e-3], [wd], 0))
