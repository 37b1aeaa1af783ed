"""A fork's training in the documented layout, and the checkpoint that it saves."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from port.models import DINOHead, DinoVisionTransformer

__all__ = ["Fork", "fork_checkpoint", "trained_fork"]

torch.set_num_threads(1)


class Network(nn.Module):
    """Backbone, classhead and patchhead, which is how the document calls them."""

    def __init__(self, depth: int = 2, chunks: int = 0) -> None:
        super().__init__()
        self.backbone = DinoVisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=depth, num_heads=2, init_values=0.5, block_chunks=chunks
        )
        self.classhead = DINOHead(16, 12, hidden_dim=16, bottleneck_dim=8)
        self.patchhead = DINOHead(16, 10, hidden_dim=12, bottleneck_dim=6)


def regularized_groups(module: nn.Module) -> list[dict[str, Any]]:
    """The document's builder: weights, then biases and 1-d tensors without decay."""
    weights: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, param in module.named_parameters():
        (rest if name.endswith(".bias") or param.ndim == 1 else weights).append(param)
    return [{"params": weights}, {"params": rest, "weight_decay": 0.0}]


class Fork:
    """Student, teacher and AdamW of the fork, after some steps on gradients of noise."""

    def __init__(self, depth: int = 2, chunks: int = 0, steps: int = 3) -> None:
        torch.manual_seed(0)
        self.student, self.teacher = Network(depth, chunks), Network(depth, chunks)
        parts = (self.student.backbone, self.student.classhead, self.student.patchhead)
        groups = [group for part in parts for group in regularized_groups(part)]
        self.optimizer = torch.optim.AdamW(groups, lr=0.01)
        # The fork's bug: of the decayed groups, only the first follows the schedule.
        self.optimizer.param_groups[0]["weight_decay"] = 0.25
        for seed in range(steps):
            self.step(self.gradients(seed))

    def gradients(self, seed: int) -> dict[str, Tensor]:
        """Return a gradient of noise for every parameter, by name."""
        generator = torch.Generator().manual_seed(seed)
        named = self.student.named_parameters()
        return {name: torch.randn(param.shape, generator=generator) for name, param in named}

    def step(self, gradients: dict[str, Tensor]) -> None:
        """Take one AdamW step."""
        for name, param in self.student.named_parameters():
            param.grad = gradients[name].clone()
        self.optimizer.step()

    def checkpoint(self) -> dict[str, Any]:
        """Return what the fork saves: the student wrapped by DDP, the teacher not."""
        return {
            "student": {f"module.{name}": value for name, value in self.student.state_dict().items()},
            "teacher": dict(self.teacher.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "epoch": 7,
            "args": argparse.Namespace(lr=0.01, token_mask_ratio=0.3, clustering_mode="masked", name="run"),
            "dino_loss": {"center": torch.ones(1, 12)},
        }


def trained_fork(**settings: int) -> Fork:
    """Return a fork after three steps."""
    return Fork(**settings)


def fork_checkpoint(**settings: int) -> dict[str, Any]:
    """Return a fork's checkpoint."""
    return Fork(**settings).checkpoint()
