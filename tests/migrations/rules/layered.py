"""A student whose parameters have the names that layers are told by."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """A block of one linear, with LayerScale."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gamma = nn.Linear(2, 2), nn.Parameter(torch.ones(2))


class Backbone(nn.Module):
    """Three blocks behind a patch embedding and a mask token."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 2))
        self.patch_embed = nn.Linear(2, 2)
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
        self.norm = nn.LayerNorm(2)


class Student(nn.Module):
    """A backbone and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Sequential(nn.Linear(2, 2))
