"""One training iteration: schedules, losses, clipping, optimizer, teacher (`dinov2/train/train.py:234-275`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from port.data.collate import Batch
from port.optim import Hyperparameters, PrototypeOptimizer, Schedules, apply_optim_scheduler
from port.outputs import Losses
from port.ssl_meta_arch import SSLMetaArch

__all__ = ["GradientHook", "GradientStage", "StepReport", "TrainStep"]

GradientStage = Literal["gradients", "clipped_gradients"]
PROTOTYPES = "prototype_loss"
"""The bank's name among gradient norms; the others' are those of the student's submodules."""
GradientHook = Callable[[GradientStage, nn.ModuleDict], None]


@dataclass(frozen=True)
class StepReport:
    """What an iteration did.

    Attributes:
        losses: averaged over micro-batches and ranks.
        gradient_norms: of each submodule of the student, before clipping, and of the prototype bank.
        hyperparameters: as scheduled.
    """

    losses: Losses
    gradient_norms: dict[str, Tensor]
    hyperparameters: Hyperparameters


class TrainStep:
    """Carries out iterations; the caller owns the loop, the data and the checkpoints.

    Attributes:
        on_gradients: callables that see the student twice per iteration: `gradients` before clipping (but
            after unscaling), `clipped_gradients` after it, also where clipping is off.
        gradient_norms: of the last iteration, before clipping, by submodule; and the prototype bank's.
    """

    def __init__(
        self,
        model: SSLMetaArch,
        optimizer: torch.optim.Optimizer,
        schedules: Schedules,
        cfg: DictConfig,
        *,
        prototypes: PrototypeOptimizer | None = None,
        scaler: torch.amp.GradScaler | None = None,
        on_gradients: Sequence[GradientHook] = (),
    ) -> None:
        """Keep the parts.

        Args:
            model: in training mode, on its device.
            optimizer: over `model.get_params_groups()`.
            schedules: from `build_schedulers`.
            cfg: `optim.clip_grad` and `finetune.freeze_backbone_iterations` are read.
            prototypes: steps the prototype bank, where there is one.
            scaler: gradient scaler for float16; None without.
            on_gradients: see the class.
        """
        self.model = model
        self.optimizer = optimizer
        self.schedules = schedules
        self.prototypes = prototypes
        self.clip_grad = float(cfg.optim.clip_grad or 0.0)
        self.freeze_backbone_iterations = int(cfg.finetune.freeze_backbone_iterations)
        self.scaler = scaler
        self.on_gradients = tuple(on_gradients)
        self.gradient_norms: dict[str, Tensor] = {}

    def __call__(self, batch: Batch | Sequence[Batch], iteration: int) -> dict[str, Tensor]:
        """Carry out one iteration and return official's displayed losses; see `run`."""
        return self.run(batch, iteration).losses.displayed

    def run(self, batch: Batch | Sequence[Batch], iteration: int) -> StepReport:
        """Carry out one iteration.

        Args:
            batch: from `collate_data_and_cast`, or micro-batches of equal size, whose gradients are averaged.
            iteration: position in the schedules, from 0.

        Raises:
            FloatingPointError: a loss, or without a scaler a gradient, is not finite on some rank. Nothing but the
                centres has been updated then; official raises too, but after the optimizer and the teacher took their
                step (Q55).
        """
        now = self.schedules.at(iteration)
        apply_optim_scheduler(self.optimizer, now.lr, now.wd, now.last_layer_lr)
        frozen = iteration < self.freeze_backbone_iterations
        if frozen:
            _freeze_backbone(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        if self.prototypes is not None:
            self.prototypes.prepare(iteration)
        losses = _averaged_over_ranks(self.model.forward_backward(batch, now.teacher_temp, backward=self._backward))
        _check_numbers(losses.displayed, iteration, "losses")
        self._optimize()
        self.model.update_teacher(now.momentum, keep=("backbone",) if frozen else ())
        return StepReport(losses, dict(self.gradient_norms), now)

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def _optimize(self) -> None:
        """Clip each submodule by its own norm (Q40) and step (`dinov2/train/train.py:249-262`)."""
        optimizers = [self.optimizer, *([] if self.prototypes is None else [self.prototypes.optimizer])]
        # Without clipping official leaves unscaling to scaler.step; doing it here changes no number.
        if self.scaler is not None:
            for optimizer in optimizers:
                self.scaler.unscale_(optimizer)
        self._show("gradients")
        self._clip()
        self._show("clipped_gradients")
        if self.scaler is None:
            _check_numbers(self.gradient_norms, None, "gradient norms")
            for optimizer in optimizers:
                optimizer.step()
            return
        for optimizer in optimizers:  # skips the step where a gradient is not finite, and lowers the scale
            self.scaler.step(optimizer)
        self.scaler.update()

    def _clip(self) -> None:
        """Clip, or only measure; the prototype bank, which is never clipped, is measured."""
        for name, module in self.model.student.items():
            if self.clip_grad:
                self.gradient_norms[name] = _whole(nn.utils.clip_grad_norm_(module.parameters(), self.clip_grad))
            else:
                self.gradient_norms[name] = _norm(module)
        if self.prototypes is not None:
            self.gradient_norms[PROTOTYPES] = _norm(self.model.prototype_loss)

    def _show(self, stage: GradientStage) -> None:
        for hook in self.on_gradients:
            hook(stage, self.model.student)


def _norm(module: nn.Module) -> Tensor:
    return _whole(nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def _whole(norm: Tensor) -> Tensor:
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _freeze_backbone(optimizer: torch.optim.Optimizer) -> None:
    """Let only the heads learn, by official's way with the last layer: learning rate 0 (Q41)."""
    for group in optimizer.param_groups:
        if group["submodule"] == "backbone":
            group["lr"] = 0.0


def _averaged_over_ranks(losses: Losses) -> Losses:
    """Return the mean of each loss over ranks (`dinov2/train/train.py:269-271`)."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return losses
    values = torch.stack([losses.total, *losses.optimised.values(), *losses.displayed.values()])
    dist.all_reduce(values)
    total, *rest = (values / dist.get_world_size()).unbind()
    n_optimised = len(losses.optimised)
    return Losses(
        total,
        dict(zip(losses.optimised, rest[:n_optimised], strict=True)),
        dict(zip(losses.displayed, rest[n_optimised:], strict=True)),
    )


def _check_numbers(values: Mapping[str, Tensor], iteration: int | None, what: str) -> None:
    """Raise FloatingPointError where a value is not finite (`dinov2/train/train.py:273`, which looks for NaN)."""
    # One transfer for all of them: each would wait for the device.
    numbers = dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist(), strict=True))
    if not all(map(math.isfinite, numbers.values())):
        culprits = ", ".join(f"{name} = {value}" for name, value in numbers.items() if not math.isfinite(value))
        place = "" if iteration is None else f"iteration {iteration}: "
        raise FloatingPointError(
            f"{place}{culprits}, expected finite {what}; nothing was updated. Lower optim.base_lr, "
            "or look for float16 overflow"
        )
