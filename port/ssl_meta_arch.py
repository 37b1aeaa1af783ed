"""The losses between student and teacher: one training step's forward and backward.

Shapes: B images, n local crops per image, N patches per global crop, M masked patches in the 2B global crops,
U = `upperbound` >= M rows, D features, K prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from port.config import check_training_config
from port.data.collate import Batch
from port.losses import DINOLoss, KoLeoLoss, iBOTPatchLoss
from port.models import ARCHITECTURES, Architecture
from port.student_teacher import StudentTeacher

__all__ = ["SSLMetaArch"]

N_GLOBAL_CROPS = 2


class TeacherTargets(NamedTuple):
    """Target probabilities: `dino` (2, B, K), crop 2 first; `ibot` (M, K), or None without iBOT."""

    dino: Tensor
    ibot: Tensor | None


class StudentOutputs(NamedTuple):
    """Logits: `local_cls` (nB, K), `global_cls` (2B, K), `masked_patches` (M, K); features: (2B, D)."""

    local_cls: Tensor
    global_cls: Tensor
    masked_patches: Tensor | None
    global_cls_features: Tensor


class SSLMetaArch(StudentTeacher):
    """Official's training objective (`dinov2/train/ssl_meta_arch.py:31`), without xformers and FSDP1.

    Attributes:
        dino_loss, koleo_loss, ibot_patch_loss: the losses; the last two only where their weight is above 0.
    """

    def __init__(self, cfg: DictConfig, *, architectures: Mapping[str, Architecture] = ARCHITECTURES) -> None:
        """Build everything, in official's order, so that a seed gives official's initial values.

        Raises:
            ValueError: the configuration asks for what the objective cannot do.
        """
        check_training_config(cfg)
        super().__init__(cfg, architectures=architectures)
        self.do_koleo = cfg.dino.koleo_loss_weight > 0
        self.dino_loss = DINOLoss(cfg.dino.head_n_prototypes)
        if self.do_koleo:
            self.koleo_loss = KoLeoLoss()
        if self.do_ibot:
            head_cfg = cfg.ibot if self.ibot_separate_head else cfg.dino
            self.ibot_patch_loss = iBOTPatchLoss(
                head_cfg.head_n_prototypes,
                keep_center_without_masks=cfg.quirks.empty_mask_center == "corrected",
            )

    def forward(self, *args: object, **kwargs: object) -> None:
        """Not available, as in official code: a step is `forward_backward`."""
        raise NotImplementedError("SSLMetaArch has no forward; call forward_backward(batch, teacher_temp)")

    def forward_backward(
        self, images: Batch, teacher_temp: float, backward: Callable[[Tensor], object] | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses and accumulate the student's gradients (`dinov2/train/ssl_meta_arch.py:144`).

        Args:
            images: a batch from `collate_data_and_cast`, on any device.
            teacher_temp: temperature of the teacher's targets.
            backward: called with the scalar to differentiate; None for `loss.backward()`.

        Returns:
            Scalars as official shows them: `dino_local_crops_loss`, `dino_global_crops_loss`, `koleo_loss`,
            `ibot_loss`, in this order, each where it is used. Loss weights are not applied, except KoLeo's; the
            optimised sum holds twice the KoLeo and iBOT values shown here (Q15).

        Raises:
            ValueError: the batch does not fit the configuration.
        """
        batch = self._on_device(images)
        self._check_batch(batch)
        targets = self._teacher_targets(batch, teacher_temp)
        outputs = self._student_outputs(batch)
        loss, loss_dict = self._losses(batch, targets, outputs)
        if backward is None:
            torch.autograd.backward(loss)
        else:
            backward(loss)
        return loss_dict

    def _on_device(self, images: Batch) -> Batch:
        device = next(self.student.parameters()).device
        return Batch(
            collated_global_crops=images["collated_global_crops"].to(device, non_blocking=True),
            collated_local_crops=images["collated_local_crops"].to(device, non_blocking=True),
            collated_masks=images["collated_masks"].to(device, non_blocking=True),
            mask_indices_list=images["mask_indices_list"].to(device, non_blocking=True),
            masks_weight=images["masks_weight"].to(device, non_blocking=True),
            upperbound=images["upperbound"],
            n_masked_patches=images["n_masked_patches"].to(device, non_blocking=True),
        )

    def _check_batch(self, batch: Batch) -> None:
        n_images = batch["collated_global_crops"].shape[0] // N_GLOBAL_CROPS
        n_local_rows, n_local = batch["collated_local_crops"].shape[0], self.cfg.crops.local_crops_number
        if n_local_rows != n_local * n_images:
            raise ValueError(
                f"collated_local_crops has {n_local_rows} rows, expected crops.local_crops_number * images = "
                f"{n_local} * {n_images}; configure augmentation and model alike"
            )
        n_masked_patches = batch["mask_indices_list"].shape[0]
        if n_masked_patches > batch["upperbound"]:
            raise ValueError(
                f"{n_masked_patches} patches are masked, expected at most upperbound = {batch['upperbound']}; "
                "draw masks with port.data.MaskingGenerator, which never exceeds its target"
            )

    @torch.no_grad()
    def _teacher_targets(self, batch: Batch, teacher_temp: float) -> TeacherTargets:
        """Run the teacher on unmasked global crops (`dinov2/train/ssl_meta_arch.py:158-234`)."""
        cls_logits, patch_logits = self._teacher_logits(batch)
        if self.cfg.train.centering == "centering":
            dino = self.dino_loss.softmax_center_teacher(cls_logits, teacher_temp)
            self.dino_loss.update_center(cls_logits)
        else:
            dino = self.dino_loss.sinkhorn_knopp_teacher(cls_logits, teacher_temp)
        dino = dino.view(N_GLOBAL_CROPS, -1, *cls_logits.shape[1:])
        if patch_logits is None:
            return TeacherTargets(dino, None)
        if self.cfg.train.centering == "centering":
            patch_logits = patch_logits.unsqueeze(0)
            ibot = self.ibot_patch_loss.softmax_center_teacher(patch_logits, teacher_temp).squeeze(0)
            self.ibot_patch_loss.update_center(patch_logits)
        else:
            ibot = self.ibot_patch_loss.sinkhorn_knopp_teacher(
                patch_logits, teacher_temp, n_masked_patches_tensor=batch["n_masked_patches"]
            )
        return TeacherTargets(dino, ibot)

    def _teacher_logits(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return logits of CLS tokens (2B, K) and of masked patches (M, K), or None without iBOT."""
        features = self.teacher["backbone"](batch["collated_global_crops"], is_training=True)
        first, second = features["x_norm_clstoken"].chunk(N_GLOBAL_CROPS)
        cls_tokens = torch.cat((second, first))  # swapped, so that each crop's target comes from the other
        if not self.do_ibot:
            return self.teacher["dino_head"](cls_tokens), None
        n_masked_patches = batch["mask_indices_list"].shape[0]
        patches = _padded_masked_patches(features["x_norm_patchtokens"], batch)
        if self.ibot_separate_head:
            cls_logits = self.teacher["dino_head"](cls_tokens)
            return cls_logits, self.teacher["ibot_head"](patches)[:n_masked_patches]
        n_cls = cls_tokens.shape[0]
        logits = self.teacher["dino_head"](torch.cat((cls_tokens, patches)))
        return logits[:n_cls], logits[n_cls : n_cls + n_masked_patches]

    def _student_outputs(self, batch: Batch) -> StudentOutputs:
        """Run the student on masked global and local crops (`dinov2/train/ssl_meta_arch.py:241-296`)."""
        global_features, local_cls_tokens = self._student_features(batch)
        global_cls_tokens = global_features["x_norm_clstoken"]
        head_inputs = [local_cls_tokens, global_cls_tokens]
        n_masked_patches = batch["mask_indices_list"].shape[0]
        masked_patches: Tensor | None = None
        if self.do_ibot:
            patches = _padded_masked_patches(global_features["x_norm_patchtokens"], batch)
            if self.ibot_separate_head:
                masked_patches = self.student["ibot_head"](patches)[:n_masked_patches]
            else:
                head_inputs.append(patches)
        # One call over one row of tokens: matrix products round differently over other shapes.
        logits = self.student["dino_head"](torch.cat([tokens.unsqueeze(0) for tokens in head_inputs], dim=1))
        local_cls, global_cls, *rest = (
            part.squeeze(0) for part in logits.split([tokens.shape[0] for tokens in head_inputs], dim=1)
        )
        if rest:
            masked_patches = rest[0][:n_masked_patches]
        return StudentOutputs(local_cls, global_cls, masked_patches, global_cls_tokens)

    def _student_features(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Return the backbone's output for global crops, and the CLS tokens (nB, D) of local crops."""
        global_crops, local_crops = batch["collated_global_crops"], batch["collated_local_crops"]
        masks = batch["collated_masks"]
        if local_crops.shape[0] == 0:
            # No rows add nothing to the packed forward, but an empty crop has no size to embed.
            (global_features,) = self.student["backbone"]([global_crops], masks=[masks], is_training=True)
            return global_features, global_features["x_norm_clstoken"][:0]
        global_features, local_features = self.student["backbone"](
            [global_crops, local_crops], masks=[masks, None], is_training=True
        )
        return global_features, local_features["x_norm_clstoken"]

    def _losses(
        self, batch: Batch, targets: TeacherTargets, outputs: StudentOutputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum to differentiate and the values to show (`dinov2/train/ssl_meta_arch.py:298-371`)."""
        cfg = self.cfg
        n_local = cfg.crops.local_crops_number
        n_global_terms = (N_GLOBAL_CROPS - 1) * N_GLOBAL_CROPS
        # Without local crops official still counts one local term (Q19).
        n_terms = n_global_terms + max(n_local * N_GLOBAL_CROPS, 1)
        loss_scales = N_GLOBAL_CROPS  # both global crops share one mean
        total = targets.dino.new_zeros(())
        loss_dict: dict[str, Tensor] = {}
        if n_local > 0:
            local_loss = self.dino_loss(outputs.local_cls.chunk(n_local), targets.dino) / n_terms
            loss_dict["dino_local_crops_loss"] = local_loss
            total = total + cfg.dino.loss_weight * local_loss

        global_loss = self.dino_loss([outputs.global_cls], [targets.dino.flatten(0, 1)]) * loss_scales / n_terms
        loss_dict["dino_global_crops_loss"] = global_loss
        total = total + cfg.dino.loss_weight * global_loss

        if self.do_koleo:
            first, second = outputs.global_cls_features.chunk(N_GLOBAL_CROPS)
            koleo_loss = cfg.dino.koleo_loss_weight * (self.koleo_loss(first) + self.koleo_loss(second))
            loss_dict["koleo_loss"] = koleo_loss / loss_scales
            total = total + koleo_loss

        if outputs.masked_patches is not None and targets.ibot is not None:
            ibot_loss = self.ibot_patch_loss.forward_masked(
                outputs.masked_patches,
                targets.ibot,
                student_masks_flat=batch["collated_masks"],
                n_masked_patches=batch["mask_indices_list"].shape[0],
                masks_weight=batch["masks_weight"],
            )
            ibot_loss = ibot_loss * loss_scales * (1.0 / N_GLOBAL_CROPS)
            loss_dict["ibot_loss"] = ibot_loss / 2
            total = total + cfg.ibot.loss_weight * ibot_loss
        return total, loss_dict


def _padded_masked_patches(patch_tokens: Tensor, batch: Batch) -> Tensor:
    """Gather masked patches from (2B, N, D) into the first M rows of zeros (U, D)."""
    indices = batch["mask_indices_list"]
    padded = patch_tokens.new_zeros(batch["upperbound"], patch_tokens.shape[-1])
    padded[: indices.shape[0]].copy_(torch.index_select(patch_tokens.flatten(0, 1), dim=0, index=indices))
    return padded
