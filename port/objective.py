"""How the terms make the training objective, and what is shown of them.

Shapes: B images, n local crops per image, N patches per global crop, M masked patches in the 2B global crops,
D features, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from omegaconf import DictConfig
from torch import Tensor

from port.data.batches import N_GLOBAL_CROPS
from port.data.collate import Batch
from port.losses import DINOLoss, KoLeoLoss, PrototypeLoss, iBOTPatchLoss
from port.losses.linear_cross_entropy import CrossEntropyTerm, linear_cross_entropy
from port.models import ARCHITECTURES, Architecture, LogitFactors
from port.outputs import Losses, StudentOutputs, TeacherTargets
from port.student_teacher import StudentTeacher

__all__ = ["Objective"]


class CrossEntropies(NamedTuple):
    """DINO's and iBOT's terms.

    Attributes:
        joint: the sum of `optimised`, where that alone has a gradient; None where each term has its own.
        optimised, displayed: see `Losses`.
    """

    joint: Tensor | None
    optimised: dict[str, Tensor]
    displayed: dict[str, Tensor]


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
        by_factors = isinstance(outputs.global_cls, LogitFactors)
        joint, optimised, displayed = (self._by_factors if by_factors else self._by_logits)(batch, targets, outputs)
        within = set() if joint is None else set(optimised)
        if self.do_koleo:
            first, second = outputs.global_cls_features.chunk(N_GLOBAL_CROPS)
            koleo_loss = self.cfg.dino.koleo_loss_weight * (self.koleo_loss(first) + self.koleo_loss(second))
            displayed["koleo_loss"] = koleo_loss / N_GLOBAL_CROPS
            optimised["koleo_loss"] = koleo_loss
        for values in (optimised, displayed):  # iBOT comes after KoLeo
            if "ibot_loss" in values:
                values["ibot_loss"] = values.pop("ibot_loss")
        if self.do_prototypes:
            self._add_prototype_terms(batch, targets, outputs, optimised, displayed)
        # Official's order of additions: it starts from zero.
        start = targets.dino.new_zeros(()) if joint is None else joint
        total = sum((value for name, value in optimised.items() if name not in within), start=start)
        return Losses(total, optimised, displayed)

    def _by_logits(self, batch: Batch, targets: TeacherTargets, outputs: StudentOutputs) -> CrossEntropies:
        """Return the cross-entropies in official's operations."""
        n_local, n_terms = self.cfg.crops.local_crops_number, self._n_terms()
        assert isinstance(outputs.local_cls, Tensor)
        assert isinstance(outputs.global_cls, Tensor)
        optimised: dict[str, Tensor] = {}
        displayed: dict[str, Tensor] = {}
        if n_local > 0:
            local_loss = self.dino_loss(outputs.local_cls.unflatten(0, (n_local, -1)), targets.dino) / n_terms
            displayed["dino_local_crops_loss"] = local_loss
            optimised["dino_local_crops_loss"] = self.cfg.dino.loss_weight * local_loss

        global_loss = self.dino_loss([outputs.global_cls], [targets.dino.flatten(0, 1)]) * N_GLOBAL_CROPS / n_terms
        displayed["dino_global_crops_loss"] = global_loss
        optimised["dino_global_crops_loss"] = self.cfg.dino.loss_weight * global_loss

        if isinstance(outputs.masked_patches, Tensor) and targets.ibot is not None:
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
        return CrossEntropies(None, optimised, displayed)

    def _by_factors(self, batch: Batch, targets: TeacherTargets, outputs: StudentOutputs) -> CrossEntropies:
        """Return the same from the logits' factors."""
        n_local, n_terms = self.cfg.crops.local_crops_number, self._n_terms()
        temperature, factor = self.dino_loss.student_temp, self.cfg.dino.loss_weight
        assert isinstance(outputs.local_cls, LogitFactors)
        assert isinstance(outputs.global_cls, LogitFactors)
        n_images = targets.dino.shape[1]
        per_image = 1 / n_images if n_images else math.nan  # the mean over no sample is NaN, as official's
        terms: dict[str, tuple[LogitFactors, CrossEntropyTerm]] = {}
        if n_local > 0:
            # The loss is linear in the targets, so the teacher's two crops are added first.
            terms["dino_local_crops_loss"] = (
                outputs.local_cls,
                CrossEntropyTerm(
                    outputs.local_cls.features.unflatten(0, (n_local, -1)),
                    targets.dino.sum(0),
                    temperature,
                    scale=per_image / n_terms,
                    factor=factor,
                ),
            )
        terms["dino_global_crops_loss"] = (
            outputs.global_cls,
            CrossEntropyTerm(
                outputs.global_cls.features.unsqueeze(0),
                targets.dino.flatten(0, 1),
                temperature,
                scale=per_image / n_terms,
                factor=factor,
            ),
        )
        if isinstance(outputs.masked_patches, LogitFactors) and targets.ibot is not None:
            terms["ibot_loss"] = (
                outputs.masked_patches,
                CrossEntropyTerm(
                    outputs.masked_patches.features.unsqueeze(0),
                    targets.ibot,
                    self.ibot_patch_loss.student_temp,
                    scale=1 / batch["collated_masks"].shape[0] / 2,
                    factor=2 * self.cfg.ibot.loss_weight,
                    weights=batch["masks_weight"],
                ),
            )
        return _joined(terms)

    def _n_terms(self) -> int:
        """Count DINO's terms; without local crops official still counts one local term (Q19)."""
        n_global_terms = (N_GLOBAL_CROPS - 1) * N_GLOBAL_CROPS
        n_local: int = self.cfg.crops.local_crops_number
        return n_global_terms + max(n_local * N_GLOBAL_CROPS, 1)

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


def _joined(terms: Mapping[str, tuple[LogitFactors, CrossEntropyTerm]]) -> CrossEntropies:
    """Compute terms, those of one last layer in one pass: two heads have two."""
    joint: Tensor | None = None
    displayed: dict[str, Tensor] = {}
    for layer in {id(logits.weight_v): logits for logits, _ in terms.values()}.values():
        names = [name for name, (logits, _) in terms.items() if logits.weight_v is layer.weight_v]
        part, values = linear_cross_entropy(layer.weight_v, layer.weight_g, [terms[name][1] for name in names])
        joint = part if joint is None else joint + part
        displayed |= dict(zip(names, values.unbind(), strict=True))
    optimised = {name: terms[name][1].factor * value for name, value in displayed.items()}
    return CrossEntropies(joint, optimised, displayed)
