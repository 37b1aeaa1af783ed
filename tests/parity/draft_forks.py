"""Small forks for the tests of the drafter, written for them; none has a line of official code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity.reference.source import Source

SINGLE = '''
"""A fork in one file, with names of its own and arguments in an order of its own."""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class DinoCriterion(nn.Module):
    def forward(self, targets, predictions):
        total = 0
        for target in targets:
            for prediction in predictions:
                total = total - (target * F.log_softmax(prediction / 0.1, dim=-1)).sum(-1).mean()
        return total


class MaskedPatchLoss(nn.Module):
    def __init__(self, temperature_of_student):
        super().__init__()
        self.temperature = temperature_of_student

    def forward(self, targets, predictions, mask, weights):
        terms = -(targets * F.log_softmax(predictions / self.temperature, dim=-1)).sum(-1) * weights
        return terms.sum() / mask.shape[0]


def koleo_regularizer(features):
    features = F.normalize(features, eps=1e-8, p=2, dim=-1)
    with torch.no_grad():
        products = features @ features.t()
        products.fill_diagonal_(-1)
        nearest = products.max(dim=1).indices
    return -torch.log(nn.PairwiseDistance(2, eps=1e-8)(features, features[nearest]) + 1e-8).mean()


def draw_masks(height, width, mask_ratio):
    return np.random.default_rng(0).random((height, width)) < mask_ratio


def make_schedules(cfg):
    length = cfg.train.OFFICIAL_EPOCH_LENGTH

    def cosine(start, end, total, warmup=0):
        steps = np.arange(total - warmup)
        rest = end + 0.5 * (start - end) * (1 + np.cos(np.pi * steps / len(steps)))
        return np.concatenate((np.linspace(0, start, warmup), rest))

    total = cfg.optim.epochs * length
    lr = cosine(cfg.optim["lr"], cfg.optim["min_lr"], total, cfg.optim["warmup_epochs"] * length)
    weight_decay = cosine(cfg.optim.weight_decay, cfg.optim.weight_decay_end, total)
    return dict(lr=lr, weight_decay=weight_decay, ema=cosine(cfg.teacher.momentum_teacher, 1.0, total))


loss = MaskedPatchLoss(0.1)
'''

TEACHER_FIRST = '''
"""A library's loss: the teacher's logits first, centred and sharpened inside."""
import torch
import torch.nn.functional as F
from torch import nn


class DINOLoss(nn.Module):
    def __init__(self, output_dim=65536, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9):
        super().__init__()
        self.teacher_temp = teacher_temp
        self.student_temp = student_temp
        self.register_buffer("center", torch.zeros(1, 1, output_dim))

    def forward(self, teacher_out, student_out, teacher_temp=None, epoch=None):
        temperature = self.teacher_temp if teacher_temp is None else teacher_temp
        teacher_stacked = F.softmax((torch.stack(teacher_out) - self.center) / temperature, dim=-1)
        student_stacked = F.log_softmax(torch.stack(student_out) / self.student_temp, dim=-1)
        pairs = -torch.einsum("tbk,sbk->ts", teacher_stacked, student_stacked)
        return pairs.sum() / teacher_stacked.shape[1]
'''

GRIDS = '''
"""A library's loss: masked tokens alone, with masks as grids, the teacher's logits first."""
import torch
from torch import nn


class IBOTPatchLoss(nn.Module):
    def __init__(self, output_dim=65536, teacher_temp=0.04, student_temp=0.1, mode="mean"):
        super().__init__()
        self.teacher_temp = teacher_temp
        self.student_temp = student_temp

    def forward(self, teacher_out, student_out, mask, teacher_temp=None):
        teacher_softmax = nn.functional.softmax(teacher_out / (teacher_temp or self.teacher_temp), dim=-1)
        logs = nn.functional.log_softmax(student_out / self.student_temp, dim=-1)
        count = mask.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
        weight = (1.0 / count).expand_as(mask)[mask]
        return (-(teacher_softmax * logs).sum(-1) * weight).sum() / mask.shape[0]
'''

DENSE = """
from torch import nn


class iBOTPatchLoss(nn.Module):
    def __init__(self, patch_out_dim, student_temp=0.1):
        super().__init__()
        self.student_temp = student_temp

    def forward(self, student_patch_tokens, teacher_patch_tokens, student_masks_flat):
        logs = nn.functional.log_softmax(student_patch_tokens / self.student_temp, dim=-1)
        terms = (teacher_patch_tokens * logs).sum(-1) * student_masks_flat.float()
        return -(terms.sum(-1) / student_masks_flat.sum(-1).clamp(min=1.0)).mean()
"""


def renamed_official(source: Source, folder: Path, package: str) -> Path:
    """Copy official's package under another name, its imports with it, as a fork would; return the folder above it."""
    for path, data in source.files.items():
        place = folder / package / path.removeprefix("dinov2/")
        place.parent.mkdir(parents=True, exist_ok=True)
        text = re.sub(rb"(?m)^(\s*(?:from|import)\s+)dinov2\b", rb"\1" + package.encode(), data)
        place.write_bytes(text)
    return folder
