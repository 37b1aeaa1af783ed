"""Tiny runs of `python port/train.py`, and how to read what they leave."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.filesystem import FileSystemReader

import port.train
from port.models import Architecture
from port.ssl_meta_arch import SSLMetaArch
from port.training import session

__all__ = [
    "ENVIRONMENT",
    "REPOSITORY",
    "TINY",
    "arguments",
    "checkpoint_tensors",
    "command",
    "in_process",
    "losses",
    "make_images",
    "metric_lines",
    "newest_checkpoint",
    "spoil",
    "use_test_architectures",
]

REPOSITORY = Path(__file__).resolve().parents[2]
ARCHITECTURES = {
    "vit_test": Architecture(embed_dim=16, depth=2, num_heads=2),
    "vit_one_block": Architecture(embed_dim=16, depth=1, num_heads=2),
}
# One thread, and glibc left as it is: these runs share their process with other tests.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
TIMES = ("data_time", "iteration_time")
TINY = (
    "student.arch=vit_test",
    "student.patch_size=4",
    "student.layerscale=0.5",
    "crops.global_crops_size=16",
    "crops.local_crops_size=8",
    "crops.local_crops_number=2",
    "dino.head_n_prototypes=16",
    "dino.head_hidden_dim=16",
    "dino.head_bottleneck_dim=8",
    "train.batch_size_per_gpu=2",
    "train.num_workers=0",
    "train.OFFICIAL_EPOCH_LENGTH=1",
    "optim.epochs=6",
    "optim.warmup_epochs=1",
    "teacher.warmup_teacher_temp_epochs=1",
    "checkpoint.period_iterations=2",
    "checkpoint.keep=2",
    "logging.period_iterations=2",
    "logging.tensorboard=false",
    "device=cpu",
)


def make_images(folder: Path, count: int = 8) -> Path:
    """Write small PNGs of noise, of two classes in turn, and return the folder."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def spoil(folder: Path, count: int) -> list[str]:
    """Cut the first `count` images short, and return their names below the folder."""
    paths = sorted(folder.rglob("*.png"))[:count]
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])
    return [str(path.relative_to(folder)) for path in paths]


def arguments(images: Path, output: Path, *overrides: str) -> list[str]:
    """Return the command line of a tiny run; later settings win."""
    return ["--output-dir", str(output), f"train.dataset_path={images}", *TINY, *overrides]


def command(images: Path, output: Path, *overrides: str) -> list[str]:
    """Return the whole command, of a process of its own; the smallest backbone that has a name."""
    settings = arguments(images, output, "student.arch=vit_demo", *overrides)
    return [sys.executable, str(REPOSITORY / "port/train.py"), *settings]


def in_process(monkeypatch: pytest.MonkeyPatch, argv: Sequence[str]) -> int:
    """Run a command line in this process and return its exit code."""
    with monkeypatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        use_test_architectures(patch)
        torch.set_num_threads(1)
        return port.train.main(argv)


def use_test_architectures(patch: pytest.MonkeyPatch) -> None:
    """Let `student.arch` name the backbones of tests."""
    patch.setattr(session, "SSLMetaArch", partial(SSLMetaArch, architectures=ARCHITECTURES))


def newest_checkpoint(output: Path) -> Path:
    """Return the folder of the checkpoint with the largest number; a `.damaged` one is none."""
    return max((output / "checkpoints").glob("step_" + 9 * "[0-9]"))


def checkpoint_tensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint, read by torch alone."""
    entries: Mapping[str, Any] = FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        state_dict_loader.load(state, storage_reader=FileSystemReader(folder))
    return state


def metric_lines(output: Path) -> list[dict[str, Any]]:
    """Return the lines of training_metrics.json; a line that is no JSON object is an error."""
    return [json.loads(line) for line in (output / "training_metrics.json").read_text().splitlines()]


def losses(output: Path) -> list[dict[str, Any]]:
    """Return the lines of training_metrics.json without what a clock measured."""
    return [{name: value for name, value in line.items() if name not in TIMES} for line in metric_lines(output)]
