"""Schedules, one float64 value per iteration. An "epoch" is `OFFICIAL_EPOCH_LENGTH` iterations (Q57)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig

__all__ = ["CosineScheduler", "Hyperparameters", "Schedules", "apply_optim_scheduler", "build_schedulers"]


class CosineScheduler:
    """Zeros, then a linear warm-up, then half a cosine (`dinov2/utils/utils.py:73`).

    The warm-up includes its end and the cosine its start, so the peak comes twice; the cosine stops one step
    short of its end, and `final_value` itself is only returned from `total_iters` on (Q42).

    Attributes:
        schedule: float64 (total_iters,).
        final_value: returned for every later iteration.
        total_iters: length of the schedule.
    """

    def __init__(
        self,
        base_value: float,
        final_value: float,
        total_iters: int,
        warmup_iters: int = 0,
        start_warmup_value: float = 0,
        freeze_iters: int = 0,
    ) -> None:
        """Compute the schedule.

        Raises:
            ValueError: warm-up and freeze together are longer than the schedule.
        """
        n_cosine = total_iters - warmup_iters - freeze_iters
        if n_cosine < 0:
            raise ValueError(
                f"warmup_iters + freeze_iters = {warmup_iters + freeze_iters}, expected at most "
                f"total_iters = {total_iters}; raise optim.epochs or lower the warm-up"
            )
        self.final_value = final_value
        self.total_iters = total_iters
        freeze = np.zeros(freeze_iters)
        warmup = np.linspace(start_warmup_value, base_value, warmup_iters)
        iters = np.arange(n_cosine)
        # Factors in official's order: another order differs in the last bit.
        cosine = final_value + 0.5 * (base_value - final_value) * (1 + np.cos(np.pi * iters / len(iters)))
        self.schedule = np.concatenate((freeze, warmup, cosine))

    def __getitem__(self, it: int) -> float:
        """Return the value at iteration `it`."""
        return self.final_value if it >= self.total_iters else float(self.schedule[it])


class Hyperparameters(NamedTuple):
    """The scheduled values of one iteration."""

    lr: float
    wd: float
    momentum: float
    teacher_temp: float
    last_layer_lr: float


class Schedules(NamedTuple):
    """The five schedules of a run, in the order in which official returns them.

    Attributes:
        lr: learning rate.
        wd: weight decay.
        momentum: momentum of the teacher's moving average.
        teacher_temp: temperature of the teacher's targets.
        last_layer_lr: learning rate of the heads' last layers; 0 while they are frozen (Q41).
    """

    lr: CosineScheduler
    wd: CosineScheduler
    momentum: CosineScheduler
    teacher_temp: CosineScheduler
    last_layer_lr: CosineScheduler

    def at(self, iteration: int) -> Hyperparameters:
        """Return the five values of an iteration."""
        return Hyperparameters(*(schedule[iteration] for schedule in self))


def build_schedulers(cfg: DictConfig) -> Schedules:
    """Return the schedules that a configuration asks for (`dinov2/train/train.py:63-109`).

    `cfg.optim.lr` must have been set by `port.config.apply_scaling_rules`.
    """
    epoch_length = cfg.train.OFFICIAL_EPOCH_LENGTH
    optim, teacher = cfg.optim, cfg.teacher
    total_iters = optim.epochs * epoch_length
    temp_warmup_iters = teacher.warmup_teacher_temp_epochs * epoch_length

    def lr_schedule() -> CosineScheduler:
        return CosineScheduler(
            base_value=optim.lr,
            final_value=optim.min_lr,
            total_iters=total_iters,
            warmup_iters=optim.warmup_epochs * epoch_length,
            start_warmup_value=0,
        )

    last_layer_lr = lr_schedule()
    last_layer_lr.schedule[: optim.freeze_last_layer_epochs * epoch_length] = 0
    return Schedules(
        lr=lr_schedule(),
        wd=CosineScheduler(optim.weight_decay, optim.weight_decay_end, total_iters),
        momentum=CosineScheduler(teacher.momentum_teacher, teacher.final_momentum_teacher, total_iters),
        teacher_temp=CosineScheduler(
            base_value=teacher.teacher_temp,
            final_value=teacher.teacher_temp,
            total_iters=temp_warmup_iters,
            warmup_iters=temp_warmup_iters,
            start_warmup_value=teacher.warmup_teacher_temp,
        ),
        last_layer_lr=last_layer_lr,
    )


def apply_optim_scheduler(optimizer: torch.optim.Optimizer, lr: float, wd: float, last_layer_lr: float) -> None:
    """Set lr and weight decay of every group (`dinov2/train/train.py:112`)."""
    for group in optimizer.param_groups:
        group["weight_decay"] = wd * group["wd_multiplier"]
        group["lr"] = (last_layer_lr if group["is_last_layer"] else lr) * group["lr_multiplier"]
