"""Backbones small enough for a test, and runs' folders that hold them: 3 blocks of 48 features, patches of 4 pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from port.config import load_config
from port.models import Architecture, DinoVisionTransformer
from port.weights import ExportSource, open_source

__all__ = ["ARCHITECTURES", "features", "images", "make_backbone", "make_network", "make_run", "make_source"]

ARCHITECTURES = {"vit_test": Architecture(embed_dim=48, depth=3, num_heads=3)}
# Tensors this small are slower on several threads, many times so on a busy machine.
torch.set_num_threads(1)

SIZES: Mapping[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 3,
    "init_values": 1e-5,
    "block_chunks": 0,
}


def make_backbone(seed: int = 0, **changes: Any) -> DinoVisionTransformer:
    """Return a backbone none of whose tensors is constant, so that each matters."""
    torch.manual_seed(seed)
    backbone = DinoVisionTransformer(**{**SIZES, **changes})
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return backbone.eval()


def make_network(seed: int = 0, **changes: Any) -> nn.ModuleDict:
    """Return a student or teacher: a backbone, and linear layers in the places of heads."""
    backbone = make_backbone(seed, **changes)
    heads = {name: nn.Linear(48, rows) for name, rows in (("dino_head", 7), ("ibot_head", 5))}
    return nn.ModuleDict({"backbone": backbone, **heads})


def make_run(folder: Path, state: Mapping[str, Any], overrides: Sequence[str] = ()) -> Path:
    """Write a run's folder: its configuration, and what it saved of the teacher after iteration 11."""
    base = ["student.arch=vit_test", "student.patch_size=4", "crops.global_crops_size=16", "crops.local_crops_size=8"]
    saved = folder / "eval" / "training_11"
    saved.mkdir(parents=True)
    OmegaConf.save(load_config(None, [*base, *overrides]), folder / "config.yaml")
    torch.save(state, saved / "teacher_checkpoint.pth")
    return folder


def make_source(folder: Path, overrides: Sequence[str] = (), **changes: Any) -> ExportSource:
    """Return the source of an export: a backbone with changes, and the settings that say the same."""
    backbone = make_backbone(**changes)
    state = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    run = make_run(folder, {"teacher": state}, overrides)
    return open_source(run, architectures=ARCHITECTURES)


def images(size: int = 16, seed: int = 3) -> Tensor:
    """Return two images (2, 3, size, size) of noise."""
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def features(backbone: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return CLS and patch tokens of a backbone that has official's interface."""
    found = backbone(batch, is_training=True)
    return found["x_norm_clstoken"], found["x_norm_patchtokens"]
