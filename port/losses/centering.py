"""Softmax centering: a running mean of teacher logits, subtracted before the softmax.

The update is deferred: `update_center` starts the reduction over ranks, and the next `softmax_center_teacher`
applies it, so that communication overlaps with the student's forward and backward (Q14). The pending update
is not part of the state dict: call `apply_center_update` before saving. That changes no number, as the next step
would apply it before its first use of the centre.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor, nn

from port.kernels import is_fast
from port.losses.sinkhorn_scaling import softmax_by_rows

__all__ = ["CenteredLoss"]


class CenteredLoss(nn.Module, ABC):
    """A loss whose teacher targets may be centred.

    Attributes:
        center: buffer of shape `center_shape`, float32, in the state dict.
        student_temp: temperature of the student's softmax.
        center_momentum: share of the old centre that an update keeps.
        fast: whether the fast forms are computed, see `port.kernels`.
        updated: false while an update is pending.
    """

    center: Tensor

    def __init__(
        self,
        center_shape: tuple[int, ...],
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        kernels: str = "official_order",
    ) -> None:
        super().__init__()
        self.fast = is_fast(kernels)
        self.student_temp = student_temp
        self.center_momentum = center_momentum
        self.register_buffer("center", torch.zeros(center_shape))
        self.updated = True
        self.reduce_handle: dist.Work | None = None
        self.async_batch_center: Tensor | None = None
        self.len_teacher_output = 0

    @abstractmethod
    def batch_center(self, teacher_output: Tensor) -> Tensor:
        """Return the sum over dim 0 of what this rank's teacher outputs contribute, shape (1, K)."""

    @torch.no_grad()
    def softmax_center_teacher(self, teacher_output: Tensor, teacher_temp: float) -> Tensor:
        """Apply the pending centre update, then centre and sharpen (`dinov2/loss/dino_clstoken_loss.py:30`).

        Args:
            teacher_output: logits (..., K).
            teacher_temp: temperature, > 0.

        Returns:
            Probabilities of the same shape; float32 even for half-precision logits, as the centre is float32.
        """
        self.apply_center_update()
        if self.fast:
            return softmax_by_rows(teacher_output, self.center, teacher_temp)
        return torch.softmax((teacher_output - self.center) / teacher_temp, dim=-1)

    @torch.no_grad()
    def targets_and_update(self, teacher_output: Tensor, teacher_temp: float) -> Tensor:
        """Do what `softmax_center_teacher` and then `update_center` do, with logits that nobody needs any more.

        Args:
            teacher_output: logits (..., K); in the fast form float32 ones become the targets, in their own memory.
            teacher_temp: temperature, > 0.

        Returns:
            Probabilities of the same shape, float32.
        """
        if not self.fast or teacher_output.dtype != self.center.dtype:
            targets = self.softmax_center_teacher(teacher_output, teacher_temp)
            self.update_center(teacher_output)
            return targets
        self.apply_center_update()
        batch_center = self.batch_center(teacher_output)
        softmax_by_rows(teacher_output, self.center, teacher_temp, out=teacher_output)
        self._start_update(batch_center, len(teacher_output))
        return teacher_output

    @torch.no_grad()
    def update_center(self, teacher_output: Tensor) -> None:
        """Start a centre update with this rank's teacher outputs (`dinov2/loss/dino_clstoken_loss.py:77`)."""
        self._start_update(self.batch_center(teacher_output), len(teacher_output))

    def _start_update(self, batch_center: Tensor, len_teacher_output: int) -> None:
        self.updated = False
        self.len_teacher_output = len_teacher_output
        self.async_batch_center = batch_center
        if dist.is_initialized():
            self.reduce_handle = dist.all_reduce(self.async_batch_center, async_op=True)

    @torch.no_grad()
    def apply_center_update(self) -> None:
        """Finish the pending centre update, if any (`dinov2/loss/dino_clstoken_loss.py:88`)."""
        if self.updated:
            return
        assert self.async_batch_center is not None
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        if self.reduce_handle is not None:
            self.reduce_handle.wait()
            self.reduce_handle = None
        mean = self.async_batch_center / (self.len_teacher_output * world_size)
        self.center = self.center * self.center_momentum + mean * (1 - self.center_momentum)
        self.async_batch_center = None
        self.updated = True
