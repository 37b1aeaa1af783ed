"""iBOT loss on masked patch tokens."""

import torch
import torch.nn.functional as F

from port.losses import iBOTPatchLoss as TeacherTargets


class IBOTPatchLoss(TeacherTargets):
    def teacher_targets(self, teacher_masked, teacher_temp, centering):
        if centering == "sinkhorn_knopp":
            count = torch.tensor([teacher_masked.shape[0]], device=teacher_masked.device)
            return self.sinkhorn_knopp_teacher(teacher_masked, teacher_temp, count)
        targets = self.softmax_center_teacher(teacher_masked.unsqueeze(0), teacher_temp).squeeze(0)
        self.update_center(teacher_masked.unsqueeze(0))
        return targets

    def forward(self, student_masked, teacher_masked, token_masks):
        """
        Args:
            student_masked: [M, K] logits of the masked tokens
            teacher_masked: [M, K] targets
            token_masks: [B, N] boolean, True = masked
        """
        student_log_probs = F.log_softmax(student_masked / self.student_temp, dim=-1)
        loss = torch.sum(teacher_masked * student_log_probs, dim=-1)
        M_total = student_masked.shape[0]
        return -loss.sum() / M_total
