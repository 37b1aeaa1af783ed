"""Student and teacher: two networks of one shape, the teacher a moving average of the student."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from port.kernels import is_fast
from port.models import ARCHITECTURES, Architecture, DINOHead, build_model
from port.optim import adamw_kernel, fuse_params_groups, get_params_groups_with_decay
from port.weights import load_backbone

__all__ = ["StudentTeacher"]

logger = logging.getLogger("port")

Self = TypeVar("Self", bound="StudentTeacher")


class StudentTeacher(nn.Module):
    """The networks of `dinov2/train/ssl_meta_arch.py:31`, and what moves parameters between them.

    Attributes:
        student, teacher: ModuleDicts of `backbone`, `dino_head` and, where separate, `ibot_head`. They start
            different: call `synchronise_teacher()` before training (Q44).
        embed_dim: features of the backbone.
        do_ibot: whether there is an iBOT loss.
        ibot_separate_head: whether it has a head of its own.
        fast: whether the fast forms are computed, see `port.kernels`.
    """

    def __init__(self, cfg: DictConfig, *, architectures: Mapping[str, Architecture] = ARCHITECTURES) -> None:
        """Build backbones and heads, in official's order: teacher backbone first, student head first."""
        super().__init__()
        self.cfg = cfg
        self.fast = is_fast(cfg.kernels)
        self.do_ibot = cfg.ibot.loss_weight > 0
        self.ibot_separate_head = bool(self.do_ibot and cfg.ibot.separate_head)
        student_backbone, teacher_backbone, self.embed_dim = build_model(
            cfg.student, cfg.crops.global_crops_size, fast=self.fast, architectures=architectures
        )
        if cfg.student.pretrained_weights:
            _load_backbone(student_backbone, cfg.student.pretrained_weights)
        student: dict[str, nn.Module] = {"backbone": student_backbone}
        teacher: dict[str, nn.Module] = {"backbone": teacher_backbone}
        head_cfgs = {"dino_head": cfg.dino}
        if self.ibot_separate_head:
            head_cfgs["ibot_head"] = cfg.ibot
        for key, head_cfg in head_cfgs.items():
            student[key] = _build_head(self.embed_dim, head_cfg)
            teacher[key] = _build_head(self.embed_dim, head_cfg)
        self.student = nn.ModuleDict(student)
        self.teacher = nn.ModuleDict(teacher)
        self.teacher.requires_grad_(False)

    def update_teacher(self, m: float, keep: Collection[str] = ()) -> None:
        """Move the teacher towards the student: t = m * t + (1 - m) * s (`dinov2/train/ssl_meta_arch.py:356`).

        Args:
            m: share of the old teacher.
            keep: parts that stay as they are, bit for bit; of equal numbers even the average is rounded.
        """
        keys = [key for key in self.student if key not in keep]
        student_params: list[Tensor] = [p for key in keys for p in self.student[key].parameters()]
        teacher_params: list[Tensor] = [p for key in keys for p in self.teacher[key].parameters()]
        if not teacher_params:
            return
        with torch.no_grad():
            if self.fast:  # t + (1 - m) (s - t), in one pass
                torch._foreach_lerp_(teacher_params, student_params, 1 - m)
            else:
                torch._foreach_mul_(teacher_params, m)
                torch._foreach_add_(teacher_params, student_params, alpha=1 - m)

    def synchronise_teacher(self) -> None:
        """Copy the student into the teacher (`dinov2/train/ssl_meta_arch.py:396`)."""
        for key in self.student:
            self.teacher[key].load_state_dict(self.student[key].state_dict())

    def train(self: Self, mode: bool = True) -> Self:
        """Set the mode of the student; the teacher is always in evaluation mode (Q45)."""
        super().train(mode)
        self.teacher.eval()
        return self

    def get_params_groups(self) -> list[dict[str, Any]]:
        """Return the student's parameter groups, fused per submodule (`dinov2/train/ssl_meta_arch.py:384`).

        Beyond official's keys, `submodule` names the student's part that a group belongs to.
        """
        all_params_groups: list[dict[str, Any]] = []
        for key, module in self.student.items():
            groups = get_params_groups_with_decay(
                module,
                lr_decay_rate=self.cfg.optim.layerwise_decay,
                patch_embed_lr_mult=self.cfg.optim.patch_embed_lr_mult,
            )
            all_params_groups += [
                {**group, **adamw_kernel(group["params"], fast=self.fast), "submodule": key}
                for group in fuse_params_groups(groups)
            ]
        return all_params_groups


def _build_head(embed_dim: int, head_cfg: DictConfig) -> DINOHead:
    return DINOHead(
        in_dim=embed_dim,
        out_dim=head_cfg.head_n_prototypes,
        hidden_dim=head_cfg.head_hidden_dim,
        bottleneck_dim=head_cfg.head_bottleneck_dim,
        nlayers=head_cfg.head_nlayers,
    )


def _load_backbone(backbone: nn.Module, path: str) -> None:
    """Load a backbone's state dict, bare or under `model` (`dinov2/train/ssl_meta_arch.py:45`, Q46).

    Raises:
        ValueError: the file is no checkpoint, or of another architecture; see `port.weights.load_backbone`.
        OSError: the file cannot be read.
    """
    report = load_backbone(backbone, path)
    logger.info("student.pretrained_weights: %s", report)
