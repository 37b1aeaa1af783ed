"""How the terms make the training objective, and what is shown of them.

Shapes: B images, n local crops per image, N patches per global crop, M masked patches in the 2B global crops,
D features, K prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from port.data.batches import N_GLOBAL_CROPS
from port.data.collate import Batch
from port.losses import DINOLoss, KoLeoLoss, PrototypeLoss, iBOTPatchLoss
from port.models import ARCHITECTURES, Architecture
from port.student_teacher import StudentTeacher

__all__ = ["Losses", "Objective", "StudentOutputs", "TeacherTargets", "mean_losses"]


class TeacherTargets(NamedTuple):
    """What the student is trained towards.

    Attributes:
        dino: probabilities (2, B, K), crop 2 first.
        ibot: probabilities (M, K), or None without iBOT.
        patch_tokens: the teacher's (2B, N, D), or None without the prototype loss.
        assignments: of these tokens to prototypes (2B * N, P), or None to let the prototype loss make them.
        temperature: of the targets.
    """

    dino: Tensor
    ibot: Tensor | None
    patch_tokens: Tensor | None
    assignments: Tensor | None
    temperature: float


class StudentOutputs(NamedTuple):
    """The student's logits and features.

    Attributes:
        local_cls: logits (nB, K).
        global_cls: logits (2B, K).
        masked_patches: logits (M, K), or None without iBOT.
        global_cls_features: (2B, D), before the head.
        masked_patch_features: (M, D), before the head, or None without iBOT and without the prototype loss.
    """

    local_cls: Tensor
    global_cls: Tensor
    masked_patches: Tensor | None
    global_cls_features: Tensor
    masked_patch_features: Tensor | None


class Losses(NamedTuple):
    """The scalars of one batch.

    Attributes:
        total: what is differentiated.
        optimised: the addends of `total` by name, weights applied: they sum to it.
        displayed: official's values, in official's order (`dinov2/train/ssl_meta_arch.py:298-371`). Weights are not
            applied, except KoLeo's; the optimised sum holds twice the KoLeo and iBOT values shown here (Q15).
    """

    total: Tensor
    optimised: dict[str, Tensor]
    displayed: dict[str, Tensor]

    def detached(self) -> Losses:
        """Return the values without their graph."""
        return Losses(
            self.total.detach(),
            {name: value.detach() for name, value in self.optimised.items()},
            {name: value.detach() for name, value in self.displayed.items()},
        )


class Objective(StudentTeacher):
    """The networks with their losses.

    Attributes:
        dino_loss, koleo_loss, ibot_patch_loss, prototype_loss: the losses; the last three only where their weight is
            above 0.
    """

    def __init__(self, cfg: DictConfig, *, architectures: Mapping[str, Architecture] = ARCHITECTURES) -> None:
        """Build the networks, then the losses; of these only `prototype_loss` draws random numbers."""
        super().__init__(cfg, architectures=architectures)
        self.do_koleo = cfg.dino.koleo_loss_weight > 0
        self.do_prototypes = cfg.prototype.loss_weight > 0
        self.dino_loss = DINOLoss(cfg.dino.head_n_prototypes, kernels=cfg.kernels)
        if self.do_koleo:
            self.koleo_loss = KoLeoLoss()
        if self.do_ibot:
            head_cfg = cfg.ibot if self.ibot_separate_head else cfg.dino
            self.ibot_patch_loss = iBOTPatchLoss(
                head_cfg.head_n_prototypes,
                keep_center_without_masks=cfg.quirks.empty_mask_center == "corrected",
                kernels=cfg.kernels,
            )
        if self.do_prototypes:
            self.prototype_loss = PrototypeLoss(self.embed_dim, cfg.prototype)

    def losses(self, batch: Batch, targets: TeacherTargets, outputs: StudentOutputs) -> Losses:
        """Return the sum to differentiate and the values to show (`dinov2/train/ssl_meta_arch.py:298-371`)."""
        n_local = self.cfg.crops.local_crops_number
        n_global_terms = (N_GLOBAL_CROPS - 1) * N_GLOBAL_CROPS
        # Without local crops official still counts one local term (Q19).
        n_terms = n_global_terms + max(n_local * N_GLOBAL_CROPS, 1)
        optimised: dict[str, Tensor] = {}
        displayed: dict[str, Tensor] = {}
        if n_local > 0:
            local_loss = self.dino_loss(outputs.local_cls.unflatten(0, (n_local, -1)), targets.dino) / n_terms
            displayed["dino_local_crops_loss"] = local_loss
            optimised["dino_local_crops_loss"] = self.cfg.dino.loss_weight * local_loss

        global_loss = self.dino_loss([outputs.global_cls], [targets.dino.flatten(0, 1)]) * N_GLOBAL_CROPS / n_terms
        displayed["dino_global_crops_loss"] = global_loss
        optimised["dino_global_crops_loss"] = self.cfg.dino.loss_weight * global_loss

        if self.do_koleo:
            first, second = outputs.global_cls_features.chunk(N_GLOBAL_CROPS)
            koleo_loss = self.cfg.dino.koleo_loss_weight * (self.koleo_loss(first) + self.koleo_loss(second))
            displayed["koleo_loss"] = koleo_loss / N_GLOBAL_CROPS
            optimised["koleo_loss"] = koleo_loss

        if outputs.masked_patches is not None and targets.ibot is not None:
            ibot_loss = self.ibot_patch_loss.forward_masked(
                outputs.masked_patches,
                targets.ibot,
                student_masks_flat=batch["collated_masks"],
                n_masked_patches=batch["mask_indices_list"].shape[0],
                masks_weight=batch["masks_weight"],
            )
            ibot_loss = ibot_loss * N_GLOBAL_CROPS * (1.0 / N_GLOBAL_CROPS)
            displayed["ibot_loss"] = ibot_loss / 2
            optimised["ibot_loss"] = self.cfg.ibot.loss_weight * ibot_loss
        if self.do_prototypes:
            self._add_prototype_terms(batch, targets, outputs, optimised, displayed)
        # Official's order of additions: it starts from zero.
        return Losses(sum(optimised.values(), start=targets.dino.new_zeros(())), optimised, displayed)

    def _add_prototype_terms(
        self,
        batch: Batch,
        targets: TeacherTargets,
        outputs: StudentOutputs,
        optimised: dict[str, Tensor],
        displayed: dict[str, Tensor],
    ) -> None:
        """Add the terms that official has not: the student's, the bank's own, and the bank's KoLeo."""
        cfg = self.cfg.prototype
        assert targets.patch_tokens is not None
        assert outputs.masked_patch_features is not None
        terms = self.prototype_loss(
            targets.patch_tokens,
            outputs.masked_patch_features,
            batch["mask_indices_list"],
            batch["masks_weight"],
            targets.temperature,
            targets.assignments,
        )
        weights = {"student": cfg.loss_weight, "teacher": cfg.teacher_loss_weight, "koleo": cfg.koleo_loss_weight}
        for name, term in terms._asdict().items():
            displayed[f"prototype_{name}_loss"] = term
            optimised[f"prototype_{name}_loss"] = weights[name] * term


def mean_losses(losses: Sequence[Losses]) -> Losses:
    """Return the mean over micro-batches; one micro-batch's losses as they are."""
    if len(losses) == 1:
        return losses[0]

    def mean(values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([value[name] for value in values]).mean(0) for name in values[0]}

    return Losses(
        torch.stack([part.total for part in losses]).mean(0),
        mean([part.optimised for part in losses]),
        mean([part.displayed for part in losses]),
    )
