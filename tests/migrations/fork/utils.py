"""Small things that every file of the fork uses."""

import torch
from torch import nn


class SingleProcess(nn.Module):
    """Stands for DistributedDataParallel on one process: what it wraps is `.module`."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def clip_gradients(module, max_norm):
    """Clip a submodule by its own norm."""
    if max_norm:
        nn.utils.clip_grad_norm_(module.parameters(), max_norm)


@torch.no_grad()
def update_teacher(student, teacher, momentum):
    """Exponential moving average of the student."""
    for s, t in zip(student.parameters(), teacher.parameters(), strict=True):
        t.mul_(momentum).add_(s, alpha=1 - momentum)
