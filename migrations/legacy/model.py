"""Student and teacher of the fork: official's modules and official's names, called in the fork's way.

Shapes: B images, 2B global crops, N tokens per global crop, M masked tokens, K prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from torch import Tensor

from port.losses import DINOLoss, KoLeoLoss, iBOTPatchLoss
from port.models import ARCHITECTURES, Architecture
from port.student_teacher import StudentTeacher

__all__ = ["LegacyModel"]

CENTERINGS = ("centering", "sinkhorn_knopp")


class LegacyModel(StudentTeacher):
    """The fork's two networks and its losses, under official's names (`dinov2/train/ssl_meta_arch.py:31`).

    The fork calls `dino_head` its classhead and `ibot_head` its patchhead.

    Args:
        config: official's keys.
        architectures: sizes of backbones by name.

    Attributes:
        dino_loss: makes the teacher's DINO targets, and the DINO terms.
        koleo_loss: None where KoLeo is off.
        ibot_patch_loss: makes the teacher's iBOT targets only; None where iBOT is off.

    Raises:
        ValueError: `train.centering` is not known.
    """

    def __init__(self, config: DictConfig, architectures: Mapping[str, Architecture] = ARCHITECTURES) -> None:
        super().__init__(config, architectures=architectures)
        self.centering: str = config.train.centering
        if self.centering not in CENTERINGS:
            raise ValueError(f"train.centering is {self.centering!r}, expected one of {', '.join(CENTERINGS)}")
        self.dino_loss = DINOLoss(config.dino.head_n_prototypes)
        self.koleo_loss = KoLeoLoss() if config.dino.koleo_loss_weight > 0 else None
        self.ibot_patch_loss: iBOTPatchLoss | None = None
        if self.do_ibot:
            sizes = config.ibot if self.ibot_separate_head else config.dino
            self.ibot_patch_loss = iBOTPatchLoss(sizes.head_n_prototypes)
        self.train()

    @torch.no_grad()
    def dino_targets(self, global_crops: Tensor, teacher_temp: float) -> Tensor:
        """Return the teacher's targets (2, B, K), those of global_2 first, so that each view meets the other.

        Official's, `dinov2/train/ssl_meta_arch.py:158-215`.
        """
        cls = self.teacher["backbone"](global_crops, is_training=True)["x_norm_clstoken"]
        first, second = cls.chunk(2)
        logits: Tensor = self.teacher["dino_head"](torch.cat((second, first)))
        if self.centering == "centering":
            targets = self.dino_loss.softmax_center_teacher(logits, teacher_temp)
            self.dino_loss.update_center(logits)
        else:
            targets = self.dino_loss.sinkhorn_knopp_teacher(logits, teacher_temp)
        return targets.reshape(2, -1, targets.shape[-1])

    @torch.no_grad()
    def ibot_targets(self, images: Tensor, token_masks: Tensor, teacher_temp: float) -> Tensor:
        """Return the targets (M, K) of the masked tokens, from an unmasked forward pass on the third view.

        Args:
            images: (B, 3, G, G), global_3.
            token_masks: bool (B, N), True = masked for the student.
            teacher_temp: temperature of the targets.
        """
        assert self.ibot_patch_loss is not None, "iBOT is off: ibot.loss_weight is 0"
        logits = self.patch_outputs("teacher", images, None)[token_masks]
        if self.centering == "centering":
            targets = self.ibot_patch_loss.softmax_center_teacher(logits.unsqueeze(0), teacher_temp)
            self.ibot_patch_loss.update_center(logits.unsqueeze(0))
            return targets.squeeze(0)
        count = torch.tensor([len(logits)], device=logits.device)
        return self.ibot_patch_loss.sinkhorn_knopp_teacher(logits, teacher_temp, count)

    def patch_outputs(self, network: str, images: Tensor, token_masks: Tensor | None) -> Tensor:
        """Return the patch head's logits (B, N, K) of every token: the fork's forward in mode `ibot`.

        Official's patch head sees the masked tokens alone (`dinov2/train/ssl_meta_arch.py:249-262`).

        Args:
            network: `student` or `teacher`.
            images: (B, 3, G, G).
            token_masks: bool (B, N), True where the mask token replaces a patch; None for no mask.
        """
        modules = {"student": self.student, "teacher": self.teacher}[network]
        head = "ibot_head" if self.ibot_separate_head else "dino_head"
        features = modules["backbone"](images, masks=token_masks, is_training=True)
        logits: Tensor = modules[head](features["x_norm_patchtokens"])
        return logits

    def apply_center_updates(self) -> None:
        """Finish what official leaves pending until the next step (Q14), so that it can be compared."""
        self.dino_loss.apply_center_update()
        if self.ibot_patch_loss is not None:
            self.ibot_patch_loss.apply_center_update()
