"""Section 1, "current": the three-view step, with a forward pass of its own for iBOT.

Shapes: B images, 2B global crops, N tokens per global crop, M masked tokens of the third view, K prototypes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from migrations.legacy.losses import ibot_patch_loss
from migrations.legacy.masks import third_view_masks
from migrations.legacy.model import LegacyModel
from migrations.legacy.optimizer import apply_schedules, build_optimizer, parameter_rows
from port.config import apply_scaling_rules
from port.models import ARCHITECTURES, Architecture
from port.optim import build_schedulers

__all__ = ["Views", "forward_losses", "run_step", "scaled", "views_of"]

N_GLOBAL_CROPS = 2


@dataclass(frozen=True)
class Views:
    """What the fork's loop takes out of a batch.

    Attributes:
        global_crops: (2B, 3, G, G), global_1 of every image, then global_2.
        local_crops: (nB, 3, L, L).
        original_images: (B, 3, G, G), global_3.
        token_masks: bool (B, N), of global_3.
    """

    global_crops: Tensor
    local_crops: Tensor
    original_images: Tensor
    token_masks: Tensor


def views_of(batch: Mapping[str, Any], config: DictConfig, dtype: torch.dtype) -> Views:
    """Return the views of a batch of the fork's own `collate`, or of official's.

    Official's has two global crops per image, all of which have a row of `collated_masks`. The third view is
    then a copy of the first crop, and its masks are drawn anew, from torch's generator.

    Raises:
        ValueError: the number of global crops fits neither.
    """
    global_crops = batch["collated_global_crops"].to(dtype)
    local_crops = batch["collated_local_crops"].to(dtype)
    n_rows, n_masks = len(global_crops), len(batch["collated_masks"])
    if n_rows == n_masks and n_rows % N_GLOBAL_CROPS == 0:
        n_images = n_rows // N_GLOBAL_CROPS
        masks = third_view_masks(n_images, config)
        return Views(global_crops, local_crops, global_crops[:n_images], masks)
    if n_rows == (N_GLOBAL_CROPS + 1) * n_masks:
        shared = N_GLOBAL_CROPS * n_masks
        return Views(global_crops[:shared], local_crops, global_crops[shared:], batch["collated_masks"])
    raise ValueError(
        f"the batch has {n_rows} global crops and {n_masks} rows of masks, expected three crops per row of "
        "masks, or two per image and as many rows; collate it with this stack or with official code"
    )


def forward_losses(
    model: LegacyModel, views: Views, config: DictConfig, teacher_temp: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss to differentiate and the losses to show, under official's names and scales.

    Departs from `dinov2/train/ssl_meta_arch.py:132-346` in that the student's global crops are not masked
    (official: `:235-237`), so that DINO and KoLeo see unmasked tokens; that patches are predicted on a third
    view, in two further forward passes; that its head runs on all B*N tokens (official: on the masked ones,
    `:249-262`); and that the iBOT loss is divided by the number of masked tokens.

    Args:
        model: student in training mode, teacher in evaluation mode.
        views: of one batch.
        config: official's keys; read are `dino`, `ibot`, `crops.local_crops_number` and `train.centering`.
        teacher_temp: temperature of the teacher's targets.
    """
    dino_targets = model.dino_targets(views.global_crops, teacher_temp)
    total, losses = _dino_and_koleo(model, views, config, dino_targets)
    if model.ibot_patch_loss is not None:
        ibot_targets = model.ibot_targets(views.original_images, views.token_masks, teacher_temp)
        student_logits = model.patch_outputs("student", views.original_images, views.token_masks)
        student_logits = student_logits[views.token_masks]
        ibot = ibot_patch_loss(student_logits, ibot_targets, n_masked_patches=len(student_logits))
        # Official shows half of what it optimises (`dinov2/train/ssl_meta_arch.py:337`).
        losses["ibot_loss"] = ibot / 2
        total = total + config.ibot.loss_weight * ibot
    return total, losses


def _dino_and_koleo(
    model: LegacyModel, views: Views, config: DictConfig, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum and the displayed values of the terms on CLS tokens: official's, unmasked."""
    n_local = config.crops.local_crops_number
    n_terms = N_GLOBAL_CROPS * (N_GLOBAL_CROPS - 1) + max(n_local * N_GLOBAL_CROPS, 1)
    losses: dict[str, Tensor] = {}
    total = targets.new_zeros(())
    crops = [views.global_crops, views.local_crops] if n_local else [views.global_crops]
    outputs = model.student["backbone"](crops, masks=[None] * len(crops), is_training=True)
    head = model.student["dino_head"]
    global_cls = outputs[0]["x_norm_clstoken"]
    if n_local:
        local_logits = head(outputs[1]["x_norm_clstoken"]).chunk(n_local)
        losses["dino_local_crops_loss"] = model.dino_loss(local_logits, targets) / n_terms
        total = total + config.dino.loss_weight * losses["dino_local_crops_loss"]
    both = model.dino_loss([head(global_cls)], [targets.flatten(0, 1)])
    losses["dino_global_crops_loss"] = both * N_GLOBAL_CROPS / n_terms
    total = total + config.dino.loss_weight * losses["dino_global_crops_loss"]
    if model.koleo_loss is not None:
        koleo = torch.stack([model.koleo_loss(crop) for crop in global_cls.chunk(N_GLOBAL_CROPS)]).sum()
        koleo = config.dino.koleo_loss_weight * koleo
        losses["koleo_loss"] = koleo / N_GLOBAL_CROPS
        total = total + koleo
    return total, losses


def scaled(config: DictConfig) -> DictConfig:
    """Return a copy of the configuration with `optim.lr` set for a single rank."""
    return apply_scaling_rules(copy.deepcopy(config), config.train.batch_size_per_gpu)


def run_step(
    config: DictConfig,
    state: Mapping[str, Tensor],
    batch: Mapping[str, Any],
    iteration: int,
    seed: int,
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
) -> dict[str, dict[str, Any]]:
    """Run one iteration from `state`, as `dinov2/train/train.py:229-264` would; see `parity.stack`.

    Args:
        config: official's keys, `optim.lr` not yet scaled.
        state: `student.…`, `teacher.…` and centres; its dtype is the dtype of the step.
        batch: see `views_of`.
        iteration: 0-based.
        seed: torch is seeded with it before the third view's masks and drop path are drawn.
        architectures: sizes of backbones by name.

    Raises:
        RuntimeError: the names or shapes of `state` are not the model's.
    """
    config = scaled(config)
    dtype = next(value.dtype for value in state.values() if value.is_floating_point())
    model = LegacyModel(config, architectures).to(dtype)
    model.load_state_dict(dict(state), strict=True)
    # After the model is built, which draws: what follows depends on `seed` alone.
    torch.manual_seed(seed)
    hyper = build_schedulers(config).at(iteration)
    optimizer = build_optimizer(model.student.values(), config)
    apply_schedules(optimizer, hyper.lr, hyper.wd)
    total, losses = forward_losses(model, views_of(batch, config, dtype), config, hyper.teacher_temp)
    total.backward()
    gradients = _gradients(model.student)
    if config.optim.clip_grad:
        for module in model.student.values():
            nn.utils.clip_grad_norm_(module.parameters(), config.optim.clip_grad)
    clipped = _gradients(model.student)
    optimizer.step()
    model.update_teacher(hyper.momentum)
    model.apply_center_updates()
    names = {id(param): name for name, param in model.student.named_parameters()}
    after = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return {
        "losses": {name: value.detach() for name, value in losses.items()},
        "gradients": gradients,
        "clipped_gradients": clipped,
        "parameters": {name: value for name, value in after.items() if name.startswith("student.")},
        "teacher": {name: value for name, value in after.items() if name.startswith("teacher.")},
        "centers": {name: value for name, value in after.items() if name.endswith("center")},
        **{
            part: {names[id(param)]: values[part].clone() for param, values in optimizer.state.items()}
            for part in ("exp_avg", "exp_avg_sq")
        },
        "hyperparameters": {
            name: {"lr": row["lr"], "weight_decay": row["weight_decay"]}
            for name, row in parameter_rows(optimizer, names).items()
        },
    }


def _gradients(student: nn.Module) -> dict[str, Tensor]:
    return {name: param.grad.detach().clone() for name, param in student.named_parameters() if param.grad is not None}
