"""The document's proposed code behind the capability contracts of `parity.stack`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from migrations.document import collate as batches
from migrations.document import losses
from migrations.document.masking import BlockMaskGenerator
from migrations.document.optimizer import apply_schedules, get_params_groups_with_decay
from migrations.legacy.optimizer import parameter_rows
from migrations.legacy.transforms import make_views
from port.config import apply_scaling_rules
from port.models import ARCHITECTURES, Architecture
from port.optim import build_optimizer, build_schedulers
from port.student_teacher import StudentTeacher

__all__ = ["NOT_OFFERED", "DocumentStack"]

_UNCHANGED = "the document proposes no change here: the fork's is official's, see the legacy stack"
_NO_TRAINING = "it does not train, see gradients.step"
_CHECKPOINT = "the document says nothing of checkpoints"

_NOT_SHOWN = "the document shows neither before nor after"

NOT_OFFERED: dict[str, str] = {
    "augment_steps": "its steps are not official's one for one: augment.crops measures what they do",
    "evaluation_view": _NOT_SHOWN,
    "decode_image": _NOT_SHOWN,
    "data_order": _NOT_SHOWN,
    "training_order": _NOT_SHOWN,
    "start_state": _NOT_SHOWN,
    "dino_loss": "section 1 feeds it backbone CLS tokens, not the head's outputs: no prototypes to compare",
    "koleo_loss": _UNCHANGED,
    "sinkhorn": _UNCHANGED,
    "softmax_center": _UNCHANGED,
    "schedules": _UNCHANGED,
    "default_config": "its new flags belong to an argument parser whose names are not official's",
    "recipe_configs": "it mixes two official recipes: decay 0.9 is vitl16_short's, Sinkhorn and SwiGLU are vitl14's",
    "build_backbone": _UNCHANGED,
    "build_head": _UNCHANGED,
    "init_state": _UNCHANGED,
    "training_step": (
        "it does not train: helpers without imports, backbone outputs indexed as a list per crop, [B] weights "
        "for an iBOT loss over flat tokens, groups that fail on heads, masks that overflow `upperbound`"
    ),
    "training_trajectory": _NO_TRAINING,
    "resumed_trajectory": _NO_TRAINING,
    "distributed_step": _NO_TRAINING,
    "load_checkpoint": _CHECKPOINT,
    "export_checkpoint": _CHECKPOINT,
    "load_weights": _CHECKPOINT,
}
"""Capability to the reason why this stack has none."""


class DocumentStack:
    """What the document's proposed code computes where it computes anything.

    Args:
        architectures: sizes of backbones by name.
    """

    name = "document"
    claims_bitwise = False
    not_offered = NOT_OFFERED
    prototype_modes = losses.PROTOTYPE_MODES

    def __init__(self, architectures: Mapping[str, Architecture] = ARCHITECTURES) -> None:
        self._architectures = architectures

    def make_mask(
        self, input_size: tuple[int, int], num_masking_patches: int, max_num_patches: float
    ) -> npt.NDArray[np.bool_]:
        """Draw one mask, flat (H*W,); section 3 has no `max_num_patches`, so the cap is not applied."""
        return BlockMaskGenerator(input_size, min_num_patches=4, min_aspect=0.3)(num_masking_patches)

    def mask_counts(
        self,
        n_rows: int,
        n_tokens: int,
        mask_ratio_min_max: tuple[float, float],
        mask_probability: float,
    ) -> list[int]:
        """Section 3's numbers of patches, crop by crop, see `migrations.document.collate`."""
        return batches.mask_counts(n_rows, n_tokens, mask_ratio_min_max, mask_probability)

    def collate(
        self, samples: Sequence[Mapping[str, Sequence[Tensor]]], config: DictConfig, dtype: torch.dtype
    ) -> dict[str, Tensor | int]:
        """Section 1's batch, masked crop by crop, see `migrations.document.collate`."""
        return batches.collate(samples, config, dtype)

    def augment(self, image: object, config: DictConfig, seed: int) -> dict[str, list[Tensor]]:
        """Section 2's views: the fork's without the third global one, which the fork makes last."""
        views = make_views(image, config)
        return {**views, "global_crops": views["global_crops"][:2]}

    def ibot_loss(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int,
        masks_weight: Tensor,
    ) -> Tensor:
        """Section 5's normalisation, with the weights that section 3 makes from the masks.

        `masks_weight` is per token, in official's form; section 3 has one weight per row and makes its own.
        """
        return losses.ibot_patch_loss(
            student_patch_tokens_masked[:n_masked_patches],
            teacher_patch_tokens_masked[:n_masked_patches],
            student_masks_flat,
            losses.row_weights(student_masks_flat),
        )

    def prototype_loss(self, mode: str, student_tokens: Tensor, teacher_tokens: Tensor, masks: Tensor) -> Tensor:
        """Section 5's clustering loss, with the axes of the feature space as prototypes.

        Raises:
            ValueError: section 4 removes the mode.
        """
        if mode not in losses.PROTOTYPE_MODES:
            raise ValueError(f"clustering mode {mode!r} is gone, expected 'masked': section 4 removes the others")
        return losses.patch_prototype_loss(
            student_tokens,
            teacher_tokens,
            masks,
            torch.eye(student_tokens.shape[-1], dtype=student_tokens.dtype),
            losses.row_weights(masks),
        )

    def parameter_groups(self, config: DictConfig, iterations: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
        """Section 7's groups under section 6's loop; a head maps to the error that building its groups raises."""
        config = apply_scaling_rules(copy.deepcopy(config), config.train.batch_size_per_gpu)
        with torch.device("meta"):
            student = StudentTeacher(config, architectures=self._architectures).student
        groups, errors = _groups_of(student, config)
        optimizer = build_optimizer(config, groups)
        schedulers = build_schedulers(config)
        names = {id(param): name for name, param in student.named_parameters()}
        table: dict[int, dict[str, dict[str, Any]]] = {}
        for iteration in iterations:
            apply_schedules(optimizer, schedulers.lr[iteration], schedulers.wd[iteration])
            rows = parameter_rows(optimizer, names, extras=("lr_multiplier", "wd_multiplier"))
            table[iteration] = {**rows, **errors}
        return table


def _groups_of(student: nn.ModuleDict, config: DictConfig) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the groups of the modules that have some, and `{module: {'error': message}}` for the others."""
    groups: list[dict[str, Any]] = []
    errors: dict[str, dict[str, Any]] = {}
    for name, module in student.items():
        built = _groups_or_error(module, config)
        if isinstance(built, AttributeError):
            errors[name] = {"error": f"AttributeError: {built}"}
        else:
            groups += built
    return groups, errors


def _groups_or_error(module: nn.Module, config: DictConfig) -> list[dict[str, Any]] | AttributeError:
    try:
        return get_params_groups_with_decay(module, config.optim.layerwise_decay, config.optim.patch_embed_lr_mult)
    except AttributeError as error:
        return error
