"""What an export starts from: a checkpoint, its configuration, and the backbone that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from port.config import load_config
from port.models import ARCHITECTURES, Architecture, DinoVisionTransformer, build_backbone
from port.weights.facts import Facts, facts_of
from port.weights.folders import find_teacher_checkpoint, run_folder
from port.weights.load import fit_backbone, read_parts

__all__ = ["ExportSource", "find_teacher_checkpoint", "open_source"]


@dataclass(frozen=True)
class ExportSource:
    """A trained backbone and where it came from.

    Attributes:
        backbone: flat blocks, in evaluation mode, built for the image size that its positions were learned at.
        arch: `student.arch`.
        size: that architecture's size.
        facts: the rest of its shape.
        file: the checkpoint.
        config_file: the configuration.
        network: `teacher` or `student`.
    """

    backbone: DinoVisionTransformer
    arch: str
    size: Architecture
    facts: Facts
    file: Path
    config_file: Path
    network: str

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that positions were learned at."""
        return self.backbone.patch_embed.patches_resolution[0] * self.backbone.patch_size


def open_source(
    path: str | Path,
    *,
    config_file: str | Path | None = None,
    network: str = "teacher",
    architectures: Mapping[str, Architecture] = ARCHITECTURES,
) -> ExportSource:
    """Build the backbone of a run or of a checkpoint.

    Args:
        path: a run's folder (the newest of what it saved is taken), a checkpoint's folder or a file.
        config_file: the run's `config.yaml`; None to look in the run's folder, which is the one that holds the
            file's `eval/` or the checkpoint's `checkpoints/`.
        network: `teacher` or `student`; a bare backbone is taken as either.
        architectures: sizes by name.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: the checkpoint is damaged, or does not fit the configuration.
    """
    file, parts = read_parts(path, setting="checkpoint", network=network)
    config = Path(config_file) if config_file else _find_config(Path(path), file)
    cfg = load_config(config)
    cfg.student.block_chunks = 0
    size = _image_size(cfg, parts["backbone"].get("pos_embed"))
    backbone = build_backbone(cfg.student, size, architectures=architectures)
    state, report = fit_backbone(backbone, parts["backbone"], file, "checkpoint")
    if report.kept or report.resized_from:
        raise ValueError(f"checkpoint: {report}; an export needs the whole backbone as it was trained")
    backbone.load_state_dict(state)
    arch = str(cfg.student.arch).removesuffix("_memeff")
    facts = facts_of(backbone.state_dict())
    return ExportSource(backbone.eval().requires_grad_(False), arch, architectures[arch], facts, file, config, network)


def _find_config(given: Path, file: Path) -> Path:
    config = run_folder(given, file) / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(
            f"no configuration {config}, which says what network {file} holds; give it with --config-file"
        )
    return config


def _image_size(cfg: DictConfig, pos_embed: Tensor | None) -> int:
    """Return the side in pixels of the images that positions (1, 1 + N, D) were learned at."""
    if pos_embed is None:
        return int(cfg.crops.global_crops_size)
    return math.isqrt(pos_embed.shape[1] - 1) * int(cfg.student.patch_size)
