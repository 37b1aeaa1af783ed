"""DINO loss on CLS tokens: the teacher's targets, and the cross-entropy over all pairs."""

from port.losses import DINOLoss as TeacherTargets


class DINOLoss(TeacherTargets):
    def teacher_targets(self, teacher_output, teacher_temp, centering):
        if centering == "sinkhorn_knopp":
            return self.sinkhorn_knopp_teacher(teacher_output, teacher_temp)
        targets = self.softmax_center_teacher(teacher_output, teacher_temp)
        self.update_center(teacher_output)
        return targets
