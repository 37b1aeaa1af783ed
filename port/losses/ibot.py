"""iBOT loss: cross-entropy between teacher and student over the prototypes of masked patches.

Shapes: R rows (2B global crops), N patches per row, M masked patches in all rows, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from port.losses.centering import CenteredLoss
from port.losses.cross_entropy import first_rows, soft_cross_entropy
from port.losses.precision import widened
from port.losses.sinkhorn import sinkhorn_knopp, total_from_tensor
from port.losses.sinkhorn_scaling import scaling_sinkhorn_knopp

__all__ = ["iBOTPatchLoss"]


class iBOTPatchLoss(CenteredLoss):  # noqa: N801 - official's name
    """Cross-entropy of masked patches, each crop weighted alike (`dinov2/loss/ibot_patch_loss.py:34`)."""

    def __init__(
        self,
        patch_out_dim: int,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        *,
        keep_center_without_masks: bool = True,
        kernels: str = "official_order",
    ) -> None:
        """Create the loss; the buffer `center` has shape (1, 1, K).

        Args:
            patch_out_dim: K, number of prototypes.
            student_temp: temperature of the student's softmax.
            center_momentum: share of the old centre that an update keeps.
            keep_center_without_masks: false for official's NaN after a batch without masks (quirk Q13).
            kernels: see `port.kernels`.
        """
        super().__init__((1, 1, patch_out_dim), student_temp, center_momentum, kernels)
        self.keep_center_without_masks = keep_center_without_masks

    def batch_center(self, teacher_output: Tensor) -> Tensor:
        """Sum the means over patches: (1, M, K) to (1, K) (`dinov2/loss/ibot_patch_loss.py:139`).

        Ranks count alike however many patches they masked (Q12). A rank that masked none has no mean; official
        divides by zero there, and its centre is NaN from then on (Q13). Here it votes for the present centre,
        unless the quirk is kept.
        """
        if teacher_output.shape[1] == 0 and self.keep_center_without_masks:
            return self.center.flatten(0, 1) * len(teacher_output)
        return torch.sum(widened(teacher_output).mean(1), dim=0, keepdim=True)

    def sinkhorn_knopp_teacher(
        self,
        teacher_output: Tensor,
        teacher_temp: float,
        n_masked_patches_tensor: Tensor,
        n_iterations: int = 3,
    ) -> Tensor:
        """Assign logits (M, K) to prototypes: float32 (M, K) (`dinov2/loss/ibot_patch_loss.py:61`).

        Args:
            teacher_output: logits of this rank's masked patches.
            teacher_temp: temperature, > 0.
            n_masked_patches_tensor: int64 (1,), M of this rank; left as it is (Q11).
            n_iterations: passes of row and column normalisation.
        """
        if self.fast and n_iterations > 0:
            return scaling_sinkhorn_knopp(teacher_output, teacher_temp, n_iterations)
        n_samples = total_from_tensor(n_masked_patches_tensor)
        return sinkhorn_knopp(teacher_output, teacher_temp, n_samples, n_iterations)

    def forward(self, student_patch_tokens: Tensor, teacher_patch_tokens: Tensor, student_masks_flat: Tensor) -> Tensor:
        """Return the loss over dense patches (`dinov2/loss/ibot_patch_loss.py:93-104`).

        Args:
            student_patch_tokens: logits (R, N, K).
            teacher_patch_tokens: target probabilities (R, N, K).
            student_masks_flat: bool (R, N), True = masked.
        """
        loss = self._log_likelihood(student_patch_tokens, teacher_patch_tokens)
        n_masked = student_masks_flat.sum(dim=-1).clamp(min=1.0)
        loss = torch.sum(loss * student_masks_flat.float(), dim=-1) / n_masked
        return -loss.mean()

    def forward_masked(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int | None = None,
        masks_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss over gathered masked patches (`dinov2/loss/ibot_patch_loss.py:106-129`).

        Unmasked rows count in the denominator, so the value grows with the share of masked rows (Q16).

        Args:
            student_patch_tokens_masked: logits (M, K), or more rows of which the first M count.
            teacher_patch_tokens_masked: target probabilities, likewise.
            student_masks_flat: bool (R, N), True = masked.
            n_masked_patches: M; None where there are no further rows.
            masks_weight: (M,), 1 / masked patches in the same row; None to compute it from the masks.
        """
        if masks_weight is None:
            weight_per_row = 1 / student_masks_flat.sum(-1).clamp(min=1.0)
            masks_weight = weight_per_row.unsqueeze(-1).expand_as(student_masks_flat)[student_masks_flat]
        if self.fast:
            return soft_cross_entropy(
                first_rows(student_patch_tokens_masked, n_masked_patches).unsqueeze(0),
                first_rows(teacher_patch_tokens_masked, n_masked_patches),
                self.student_temp,
                weights=masks_weight,
                scale=1 / student_masks_flat.shape[0],
            )
        loss = self._log_likelihood(student_patch_tokens_masked, teacher_patch_tokens_masked)
        if n_masked_patches is not None:
            loss = loss[:n_masked_patches]
        loss = loss * masks_weight
        return -loss.sum() / student_masks_flat.shape[0]

    def _log_likelihood(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return minus the cross-entropy: (..., K) to (...), from float32 on (`dinov2/loss/ibot_patch_loss.py:31`)."""
        return torch.sum(teacher * torch.log_softmax(widened(student) / self.student_temp, dim=-1), dim=-1)
