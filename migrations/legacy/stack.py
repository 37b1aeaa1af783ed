"""The fork behind the capability contracts of `parity.stack`, so that parity can find all seven differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from migrations.legacy import losses, masks, optimizer, trainer, transforms
from migrations.legacy.model import LegacyModel
from port.losses import DINOLoss, KoLeoLoss, iBOTPatchLoss
from port.models import ARCHITECTURES, Architecture, DINOHead, build_backbone
from port.optim import build_schedulers

__all__ = ["NOT_OFFERED", "LegacyStack"]

_CHECKPOINT = "the document says nothing of checkpoints; `python -m migrations checkpoint` converts a fork's"

NOT_OFFERED: dict[str, str] = {
    "augment_steps": "its steps are not official's one for one: augment.crops measures what they do",
    "evaluation_view": "the document shows no evaluation",
    "decode_image": "the document does not show how images are read",
    "data_order": "the document does not show a sampler",
    "training_order": "the document does not show a data loader",
    "mask_counts": "each token is masked by a draw of its own: no number of patches is ever asked for",
    "default_config": "the fork keeps its defaults in an argument parser, under names that are not official's",
    "start_state": "the document does not show how training is prepared",
    "training_trajectory": "its first step already differs, see gradients.step: a hundred would show nothing more",
    "resumed_trajectory": "its first step already differs, see gradients.step",
    "load_checkpoint": _CHECKPOINT,
    "export_checkpoint": _CHECKPOINT,
    "load_weights": _CHECKPOINT,
    "distributed_step": "its step on one rank already differs, see gradients.step",
    "recipe_configs": "the fork has no recipes: a launcher sets the flags of its argument parser",
}
"""Capability to the reason why this stack has none."""


class LegacyStack:
    """The document's "this implementation".

    Args:
        architectures: sizes of backbones by name.
    """

    name = "legacy"
    claims_bitwise = False
    not_offered = NOT_OFFERED
    prototype_modes = losses.PROTOTYPE_MODES

    def __init__(self, architectures: Mapping[str, Architecture] = ARCHITECTURES) -> None:
        self._architectures = architectures

    def make_mask(
        self, input_size: tuple[int, int], num_masking_patches: int, max_num_patches: float
    ) -> npt.NDArray[np.bool_]:
        """Draw one mask, flat (H*W,), with the ratio that meets the target on average.

        Args:
            input_size: height and width of the grid.
            num_masking_patches: the target.
            max_num_patches: nothing here is capped.

        Raises:
            ValueError: the target is not on the grid.
        """
        height, width = input_size
        if not 0 <= num_masking_patches <= height * width:
            raise ValueError(
                f"num_masking_patches is {num_masking_patches}, expected 0 to {height * width} "
                f"on a {height} x {width} grid; lower the target"
            )
        ratio = num_masking_patches / (height * width)
        mask: npt.NDArray[np.bool_] = masks.generate_random_token_masks(1, height, width, ratio)[0].numpy()
        return mask

    def collate(
        self, samples: Sequence[Mapping[str, Sequence[Tensor]]], config: DictConfig, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Three global rows per image, see `migrations.legacy.masks.collate`."""
        return masks.collate(samples, config, dtype)

    def augment(self, image: object, config: DictConfig, seed: int) -> dict[str, list[Tensor]]:
        """A PIL image to what `collate` takes: three global views, the last for iBOT alone, and the local ones."""
        return transforms.make_views(image, config)

    def dino_loss(self, student_output_list: Sequence[Tensor], teacher_list: Sequence[Tensor]) -> Tensor:
        """Official's, from `port`."""
        loss = DINOLoss(student_output_list[0].shape[-1])
        result: Tensor = loss(student_output_list, teacher_list)
        return result

    def ibot_loss(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int,
        masks_weight: Tensor,
    ) -> Tensor:
        """Divided by the number of masked tokens; neither rows nor weights matter (section 5)."""
        return losses.ibot_patch_loss(student_patch_tokens_masked, teacher_patch_tokens_masked, n_masked_patches)

    def koleo_loss(self, student_output: Tensor) -> Tensor:
        """Official's, from `port`."""
        result: Tensor = KoLeoLoss()(student_output)
        return result

    def sinkhorn(self, kind: str, teacher_output: Tensor, teacher_temp: float) -> Tensor:
        """Official's, from `port`."""
        n_prototypes = teacher_output.shape[-1]
        if kind == "dino":
            return DINOLoss(n_prototypes).sinkhorn_knopp_teacher(teacher_output, teacher_temp)
        count = torch.tensor([len(teacher_output)])
        return iBOTPatchLoss(n_prototypes).sinkhorn_knopp_teacher(teacher_output, teacher_temp, count)

    def softmax_center(
        self, kind: str, teacher_outputs: Sequence[Tensor], teacher_temp: float
    ) -> tuple[list[Tensor], Tensor]:
        """Official's, from `port`."""
        first = teacher_outputs[0]
        ibot = partial(iBOTPatchLoss, keep_center_without_masks=False)  # official's Q13
        loss = DINOLoss(first.shape[-1]) if kind == "dino" else ibot(first.shape[-1])
        loss = loss.to(first.dtype)
        targets = []
        for output in teacher_outputs:
            batch = output if kind == "dino" else output.unsqueeze(0)
            targets.append(loss.softmax_center_teacher(batch, teacher_temp).view_as(output))
            loss.update_center(batch)
        loss.apply_center_update()
        return targets, loss.center.flatten()

    def schedules(self, config: DictConfig) -> dict[str, npt.NDArray[np.float64]]:
        """Official's, but for the last layer, which is never frozen (official: `train/train.py:98-100`)."""
        built = build_schedulers(trainer.scaled(config))
        return {
            "lr": built.lr.schedule,
            "wd": built.wd.schedule,
            "momentum": built.momentum.schedule,
            "teacher_temp": built.teacher_temp.schedule,
            "last_layer_lr": built.lr.schedule.copy(),
        }

    def parameter_groups(self, config: DictConfig, iterations: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
        """Learning rate and weight decay of every parameter, from the fork's groups and loop."""
        config = trainer.scaled(config)
        with torch.device("meta"):
            student = LegacyModel(config, self._architectures).student
        built = optimizer.build_optimizer(student.values(), config)
        schedulers = build_schedulers(config)
        names = {id(param): name for name, param in student.named_parameters()}
        table: dict[int, dict[str, dict[str, Any]]] = {}
        for iteration in iterations:
            optimizer.apply_schedules(built, schedulers.lr[iteration], schedulers.wd[iteration])
            table[iteration] = optimizer.parameter_rows(built, names)
        return table

    def build_backbone(self, config: DictConfig) -> nn.Module:
        """Official's student backbone, from `port`."""
        return build_backbone(
            config.student, config.crops.global_crops_size, drop_path=True, architectures=self._architectures
        )

    def build_head(self, config: DictConfig, kind: str) -> nn.Module:
        """Official's head, from `port`: the classhead (`dino`) or the patchhead (`ibot`)."""
        sizes = config.dino if kind == "dino" else config.ibot
        return DINOHead(
            in_dim=self._architectures[config.student.arch].embed_dim,
            out_dim=sizes.head_n_prototypes,
            hidden_dim=sizes.head_hidden_dim,
            bottleneck_dim=sizes.head_bottleneck_dim,
            nlayers=sizes.head_nlayers,
        )

    def init_state(self, config: DictConfig, seed: int) -> dict[str, Tensor]:
        """Every tensor of a freshly built model, under official's names."""
        torch.manual_seed(seed)
        model = LegacyModel(config, self._architectures)
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def training_step(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batch: Mapping[str, Any],
        iteration: int,
        seed: int,
    ) -> dict[str, dict[str, Any]]:
        """One three-view iteration, see `migrations.legacy.trainer.run_step`."""
        return trainer.run_step(config, state, batch, iteration, seed, self._architectures)

    def prototype_loss(self, mode: str, student_tokens: Tensor, teacher_tokens: Tensor, masks: Tensor) -> Tensor:
        """Clustering loss of a mode, with the axes of the feature space as prototypes."""
        prototypes = torch.eye(student_tokens.shape[-1], dtype=student_tokens.dtype)
        return losses.patch_prototype_loss(mode, student_tokens, teacher_tokens, masks, prototypes)
