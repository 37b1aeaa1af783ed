"""The losses between student and teacher: one training step's forward and backward.

Shapes: B images, n local crops per image, N patches per global crop, M masked patches in the 2B global crops,
U = `upperbound` >= M rows, D features, K prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from port.config import check_training_config
from port.data.batches import N_GLOBAL_CROPS, batch_to_device, check_batch
from port.data.collate import Batch
from port.losses.cross_entropy import first_rows
from port.models import ARCHITECTURES, Architecture
from port.objective import Objective
from port.outputs import Logits, Losses, StudentOutputs, TeacherTargets, first_logits, mean_losses, split_logits
from port.wanted import cls_rows, patch_rows

__all__ = ["SSLMetaArch"]


class SSLMetaArch(Objective):
    """Official's training objective (`dinov2/train/ssl_meta_arch.py:31`), without xformers and FSDP1.

    Attributes:
        autocast: entered around every forward pass; sets the precision of matrix products.
        wrapped_forward: calls `forward` through a data-parallel wrapper; None for `forward` itself.
        gradient_sync: entered around each micro-batch with whether it is the last, after which ranks must agree.
    """

    def __init__(self, cfg: DictConfig, *, architectures: Mapping[str, Architecture] = ARCHITECTURES) -> None:
        """Build everything, in official's order, so that a seed gives official's initial values.

        Raises:
            ValueError: the configuration asks for what the objective cannot do.
        """
        check_training_config(cfg)
        super().__init__(cfg, architectures=architectures)
        self.autocast: Callable[[], AbstractContextManager[object]] = nullcontext
        self.wrapped_forward: Callable[[Batch, TeacherTargets], Losses] | None = None
        self.gradient_sync: Callable[[bool], AbstractContextManager[object]] = nullcontext

    def forward_backward(
        self,
        images: Batch | Sequence[Batch],
        teacher_temp: float,
        backward: Callable[[Tensor], object] | None = None,
    ) -> Losses:
        """Compute the losses and accumulate the student's gradients (`dinov2/train/ssl_meta_arch.py:144`).

        Args:
            images: a batch from `collate_data_and_cast`, on any device, or micro-batches of equal size; see
                `teacher_targets` for what they share.
            teacher_temp: temperature of the teacher's targets.
            backward: called with the scalar to differentiate; None for `loss.backward()`.

        Returns:
            Detached scalars, averaged over micro-batches; official returns the `displayed` ones.

        Raises:
            ValueError: the batch does not fit the configuration.
        """
        device = next(self.student.parameters()).device
        batches = [batch_to_device(batch, device) for batch in as_micro_batches(images)]
        for batch in batches:
            check_batch(batch, self.cfg.crops.local_crops_number)
        targets = self.teacher_targets(batches, teacher_temp)
        parts = []
        for i, (batch, target) in enumerate(zip(batches, targets, strict=True), 1):
            with self.gradient_sync(i == len(batches)):
                losses = (self.wrapped_forward or self)(batch, target)
                share = losses.total if len(batches) == 1 else losses.total / len(batches)
                (torch.autograd.backward if backward is None else backward)(share)
            parts.append(losses.detached())
        return mean_losses(parts)

    @torch.no_grad()
    def teacher_targets(self, batches: Sequence[Batch], teacher_temp: float) -> list[TeacherTargets]:
        """Run the teacher on unmasked global crops (`dinov2/train/ssl_meta_arch.py:158-234`).

        Micro-batches share one centre, one centre update, and one Sinkhorn over all their tokens, so that their
        targets are those of one large batch.

        Args:
            batches: on the model's device.
            teacher_temp: temperature of the targets.

        Returns:
            One per batch.
        """
        with self.autocast():
            outputs = [self._teacher_outputs(batch) for batch in batches]
            cls_logits, patch_logits, patch_tokens = zip(*outputs, strict=True)
            dino = self._dino_targets(_joined(cls_logits), teacher_temp).split([len(part) for part in cls_logits])
            ibot: Sequence[Tensor | None] = [None] * len(batches)
            if self.do_ibot:
                n_masked_patches = sum(batch["n_masked_patches"] for batch in batches)
                assert isinstance(n_masked_patches, Tensor)
                joined = self._ibot_targets(_joined(patch_logits), teacher_temp, n_masked_patches)
                ibot = joined.split([len(part) for part in patch_logits])
            assignments = self._assignments(patch_tokens, teacher_temp)
        return [
            TeacherTargets(cls.view(N_GLOBAL_CROPS, -1, cls.shape[-1]), patches, tokens, assigned, teacher_temp)
            for cls, patches, tokens, assigned in zip(dino, ibot, patch_tokens, assignments, strict=True)
        ]

    def _assignments(self, patch_tokens: Sequence[Tensor | None], teacher_temp: float) -> Sequence[Tensor | None]:
        """Assign the tokens of several micro-batches to prototypes together; one batch's are made with its loss."""
        tokens = [part.flatten(0, 1) for part in patch_tokens if part is not None]
        if len(tokens) <= 1:
            return [None] * len(patch_tokens)
        joined: Tensor = self.prototype_loss.assign(torch.cat(tokens), teacher_temp)
        return list(joined.split([len(part) for part in tokens]))

    def _dino_targets(self, logits: Tensor, teacher_temp: float) -> Tensor:
        if self.cfg.train.centering != "centering":
            return self.dino_loss.sinkhorn_knopp_teacher(logits, teacher_temp)
        return self.dino_loss.targets_and_update(logits, teacher_temp)

    def _ibot_targets(self, logits: Tensor, teacher_temp: float, n_masked_patches: Tensor) -> Tensor:
        if self.cfg.train.centering != "centering":
            return self.ibot_patch_loss.sinkhorn_knopp_teacher(
                logits, teacher_temp, n_masked_patches_tensor=n_masked_patches
            )
        return self.ibot_patch_loss.targets_and_update(logits.unsqueeze(0), teacher_temp).squeeze(0)

    def _teacher_outputs(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return logits of CLS tokens (2B, K), of masked patches (M, K), and patch tokens, the last two if used."""
        cls_tokens, patches, patch_tokens = self._teacher_tokens(batch)
        first, second = cls_tokens.chunk(N_GLOBAL_CROPS)
        cls_tokens = torch.cat((second, first))  # swapped, so that each crop's target comes from the other
        if patches is None:
            return self.teacher["dino_head"](cls_tokens), None, patch_tokens
        n_masked_patches = batch["mask_indices_list"].shape[0]
        if self.ibot_separate_head:
            cls_logits = self.teacher["dino_head"](cls_tokens)
            return cls_logits, self.teacher["ibot_head"](patches)[:n_masked_patches], patch_tokens
        n_cls = cls_tokens.shape[0]
        logits = self.teacher["dino_head"](torch.cat((cls_tokens, patches)))
        return logits[:n_cls], logits[n_cls : n_cls + n_masked_patches], patch_tokens

    def _teacher_tokens(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return CLS tokens (2B, D), masked patches (M, D) if used, padded in official's order, and all if used."""
        backbone, crops = self.teacher["backbone"], batch["collated_global_crops"]
        if self.fast and not self.do_prototypes:
            tokens = backbone(crops, is_training=True, rows=self._global_rows("teacher", batch))
            return tokens[: len(crops)], tokens[len(crops) :] if self.do_ibot else None, None
        features = backbone(crops, is_training=True)
        patch_tokens = features["x_norm_patchtokens"]
        patches = _masked_patches(patch_tokens, batch, padded=not self.fast) if self.do_ibot else None
        return features["x_norm_clstoken"], patches, patch_tokens if self.do_prototypes else None

    def _global_rows(self, network: str, batch: Batch) -> Tensor:
        """Return which tokens of the global crops are needed: CLS tokens, then masked patches if used."""
        backbone, crops = getattr(self, network)["backbone"], batch["collated_global_crops"]
        rows = cls_rows(backbone, crops)
        if not (self.do_ibot or self.do_prototypes):
            return rows
        return torch.cat((rows, patch_rows(backbone, crops, batch["mask_indices_list"])))

    def forward(self, batch: Batch, targets: TeacherTargets) -> Losses:
        """Run the student and compute its losses: the part of a step that is differentiated.

        Official's `forward` raises; here it is what data-parallel wrappers call.

        Args:
            batch: on the model's device.
            targets: from `teacher_targets`.
        """
        with self.autocast():
            return self.losses(batch, targets, self._student_outputs(batch))

    def _student_outputs(self, batch: Batch) -> StudentOutputs:
        """Run the student on masked global and local crops (`dinov2/train/ssl_meta_arch.py:241-296`)."""
        global_cls_tokens, patches, local_cls_tokens = self._student_tokens(batch)
        head_inputs = [local_cls_tokens, global_cls_tokens]
        n_masked_patches = batch["mask_indices_list"].shape[0]
        masked_patches: Logits | None = None
        if self.ibot_separate_head:
            masked_patches = first_logits(self.student["ibot_head"](patches, factors=self.fast), n_masked_patches)
        elif self.do_ibot:
            assert patches is not None
            head_inputs.append(patches)
        # One call over one row of tokens: matrix products round differently over other shapes.
        row = torch.cat([tokens.unsqueeze(0) for tokens in head_inputs], dim=1)
        logits: Logits = self.student["dino_head"](row, factors=self.fast)
        local_cls, global_cls, *rest = split_logits(logits, [tokens.shape[0] for tokens in head_inputs])
        if rest:
            masked_patches = first_logits(rest[0], n_masked_patches)
        masked_patch_features = None if patches is None else first_rows(patches, n_masked_patches)
        return StudentOutputs(local_cls, global_cls, masked_patches, global_cls_tokens, masked_patch_features)

    def _student_tokens(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return CLS tokens (2B, D), masked patches (M, D), in official's order padded, and local CLS tokens."""
        global_crops, local_crops = batch["collated_global_crops"], batch["collated_local_crops"]
        crops, masks = [global_crops, local_crops], [batch["collated_masks"], None]
        if local_crops.shape[0] == 0:
            # No rows add nothing to the packed forward, but an empty crop has no size to embed.
            crops, masks = crops[:1], masks[:1]
        with_patches = self.do_ibot or self.do_prototypes
        if self.fast:
            backbone = self.student["backbone"]
            rows = [self._global_rows("student", batch), *(cls_rows(backbone, part) for part in crops[1:])]
            tokens, *local_tokens = self._student_backbone(crops, masks, rows)
            cls_tokens, patches = tokens[: len(global_crops)], tokens[len(global_crops) :] if with_patches else None
            return cls_tokens, patches, local_tokens[0] if local_tokens else cls_tokens[:0]
        features, *local_features = self._student_backbone(crops, masks)
        cls_tokens = features["x_norm_clstoken"]
        patches = _masked_patches(features["x_norm_patchtokens"], batch, padded=True) if with_patches else None
        return cls_tokens, patches, local_features[0]["x_norm_clstoken"] if local_features else cls_tokens[:0]

    def _student_backbone(
        self, crops: list[Tensor], masks: list[Tensor | None], rows: list[Tensor] | None = None
    ) -> Sequence[Any]:
        """Run the backbone once on crops of all sizes; see `DinoVisionTransformer.forward`."""
        outputs: Sequence[Any] = self.student["backbone"](crops, masks=masks, is_training=True, rows=rows)
        return outputs


def as_micro_batches(images: Batch | Sequence[Batch]) -> Sequence[Batch]:
    """Return micro-batches, one for a batch alone."""
    return [images] if isinstance(images, dict) else images


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _masked_patches(patch_tokens: Tensor, batch: Batch, *, padded: bool) -> Tensor:
    """Gather masked patches from (2B, N, D): (M, D), or as official the first M rows of zeros (U, D) (Q28)."""
    indices = batch["mask_indices_list"]
    patches = torch.index_select(patch_tokens.flatten(0, 1), dim=0, index=indices)
    if not padded:
        return patches
    rows = patch_tokens.new_zeros(batch["upperbound"], patch_tokens.shape[-1])
    rows[: indices.shape[0]].copy_(patches)
    return rows
