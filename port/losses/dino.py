"""DINO loss: cross-entropy between teacher and student over the prototypes of CLS tokens.

Shapes: B samples, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from port.losses.centering import CenteredLoss
from port.losses.cross_entropy import soft_cross_entropy
from port.losses.precision import widened
from port.losses.sinkhorn import sinkhorn_knopp, total_from_world_size
from port.losses.sinkhorn_scaling import scaling_sinkhorn_knopp

__all__ = ["DINOLoss"]


class DINOLoss(CenteredLoss):
    """Cross-entropy of CLS tokens, and two ways to make targets (`dinov2/loss/dino_clstoken_loss.py:12`)."""

    def __init__(
        self,
        out_dim: int,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        *,
        kernels: str = "official_order",
    ) -> None:
        """Create the loss; `out_dim` is K, and the buffer `center` has shape (1, K); see `port.kernels`."""
        super().__init__((1, out_dim), student_temp, center_momentum, kernels)

    def batch_center(self, teacher_output: Tensor) -> Tensor:
        """Sum logits (B, K) over samples: (1, K) (`dinov2/loss/dino_clstoken_loss.py:83`)."""
        return torch.sum(widened(teacher_output), dim=0, keepdim=True)

    def sinkhorn_knopp_teacher(self, teacher_output: Tensor, teacher_temp: float, n_iterations: int = 3) -> Tensor:
        """Assign logits (B, K) to prototypes: float32 (B, K) (`dinov2/loss/dino_clstoken_loss.py:36`)."""
        if self.fast and n_iterations > 0:
            return scaling_sinkhorn_knopp(teacher_output, teacher_temp, n_iterations)
        n_samples = total_from_world_size(teacher_output.shape[0])
        return sinkhorn_knopp(teacher_output, teacher_temp, n_samples, n_iterations)

    def forward(
        self, student_output_list: Sequence[Tensor] | Tensor, teacher_out_softmaxed_centered_list: Iterable[Tensor]
    ) -> Tensor:
        """Sum, over all pairs, the mean cross-entropy (`dinov2/loss/dino_clstoken_loss.py:63-74`).

        Args:
            student_output_list: logits, each (B, K); half precision is widened. A tensor (n, B, K) is a list of n,
                which the fast form takes without a copy.
            teacher_out_softmaxed_centered_list: target probabilities, each (B, K); a tensor (n, B, K) is a
                list of n.

        Returns:
            Scalar.

        Raises:
            ValueError: one of the lists is empty.
        """
        teacher_list = list(teacher_out_softmaxed_centered_list)
        if len(student_output_list) == 0 or not teacher_list:
            raise ValueError(
                f"DINOLoss got {len(student_output_list)} student and {len(teacher_list)} teacher outputs, "
                "expected at least one of each; skip the term where there are no crops"
            )
        if self.fast:
            return self._by_summed_targets(student_output_list, teacher_list)
        total_loss = teacher_list[0].new_zeros(())
        for s in student_output_list:
            lsm = torch.log_softmax(widened(s) / self.student_temp, dim=-1)
            for t in teacher_list:
                total_loss = total_loss - torch.sum(t * lsm, dim=-1).mean()
        return total_loss

    def _by_summed_targets(self, students: Sequence[Tensor] | Tensor, teachers: Sequence[Tensor]) -> Tensor:
        """Return the same sum in one pass over the logits: the loss is linear in the targets, so they are added first.

        Args:
            students: as for `forward`.
            teachers: each (B, K); the loss's gradient does not reach them.
        """
        logits = students if isinstance(students, Tensor) else _stacked(students)
        targets = teachers[0] if len(teachers) == 1 else torch.stack(list(teachers)).sum(0)
        scale = 1 / len(targets) if len(targets) else math.nan  # the mean over no sample is NaN, as official's
        return soft_cross_entropy(logits, targets, self.student_temp, scale=scale)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))
