"""One training iteration: schedules, losses, clipping, optimizer, teacher (`dinov2/train/train.py:234-275`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor, nn

from port.data.collate import Batch
from port.optim import Schedules, apply_optim_scheduler
from port.ssl_meta_arch import SSLMetaArch

__all__ = ["GradientHook", "GradientStage", "TrainStep"]

GradientStage = Literal["gradients", "clipped_gradients"]
GradientHook = Callable[[GradientStage, nn.ModuleDict], None]


class TrainStep:
    """Carries out iterations; the caller owns the loop, the data and the checkpoints.

    Attributes:
        on_gradients: callables that see the student twice per iteration: `gradients` before clipping (but
            after unscaling), `clipped_gradients` after it, also where clipping is off.
    """

    def __init__(
        self,
        model: SSLMetaArch,
        optimizer: torch.optim.Optimizer,
        schedules: Schedules,
        cfg: DictConfig,
        *,
        scaler: torch.amp.GradScaler | None = None,
        on_gradients: Sequence[GradientHook] = (),
    ) -> None:
        """Keep the parts.

        Args:
            model: in training mode, on its device.
            optimizer: over `model.get_params_groups()`.
            schedules: from `build_schedulers`.
            cfg: `cfg.optim.clip_grad` is read.
            scaler: gradient scaler for float16; None without.
            on_gradients: see the class.
        """
        self.model = model
        self.optimizer = optimizer
        self.schedules = schedules
        self.clip_grad = float(cfg.optim.clip_grad or 0.0)
        self.scaler = scaler
        self.on_gradients = tuple(on_gradients)

    def __call__(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Carry out one iteration.

        Args:
            batch: from `collate_data_and_cast`.
            iteration: position in the schedules, from 0.

        Returns:
            The losses that `SSLMetaArch.forward_backward` shows, detached, averaged over ranks.

        Raises:
            FloatingPointError: a loss is not a number on some rank. Nothing has been updated then; official
                raises too, but after the optimizer and the teacher took their step (Q55).
        """
        now = self.schedules.at(iteration)
        apply_optim_scheduler(self.optimizer, now.lr, now.wd, now.last_layer_lr)
        self.optimizer.zero_grad(set_to_none=True)
        loss_dict = self.model.forward_backward(batch, now.teacher_temp, backward=self._backward)
        losses = _averaged_over_ranks(loss_dict)
        _check_numbers(losses, iteration)
        self._optimize()
        self.model.update_teacher(now.momentum)
        return losses

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def _optimize(self) -> None:
        """Clip each submodule by its own norm (Q40) and step (`dinov2/train/train.py:249-262`)."""
        # Without clipping official leaves unscaling to scaler.step; doing it here changes no number.
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self._show("gradients")
        if self.clip_grad:
            for module in self.model.student.values():
                nn.utils.clip_grad_norm_(module.parameters(), self.clip_grad)
        self._show("clipped_gradients")
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _show(self, stage: GradientStage) -> None:
        for hook in self.on_gradients:
            hook(stage, self.model.student)


def _averaged_over_ranks(loss_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean of each loss over ranks (`dinov2/train/train.py:269-271`)."""
    values = torch.stack([loss.detach() for loss in loss_dict.values()])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return dict(zip(loss_dict, values.unbind(), strict=True))


def _check_numbers(losses: dict[str, Tensor], iteration: int) -> None:
    """Raise FloatingPointError where the sum of losses is NaN (`dinov2/train/train.py:273`)."""
    values = {name: float(loss) for name, loss in losses.items()}
    if math.isnan(sum(values.values())):
        culprits = ", ".join(f"{name} = {value}" for name, value in values.items() if not math.isfinite(value))
        raise FloatingPointError(
            f"iteration {iteration}: {culprits}, expected finite losses; nothing was updated. Lower optim.base_lr, "
            "or look for float16 overflow"
        )
