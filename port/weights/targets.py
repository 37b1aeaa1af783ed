"""The layouts that a backbone is exported to, each run before it is handed over."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType

import torch

from port.models import DinoVisionTransformer
from port.weights import hub, huggingface, timm_layout
from port.weights.source import ExportSource
from port.weights.verify import Run, Verification, verify

__all__ = ["TARGETS", "Exported", "Target", "export_backbone"]


@dataclass(frozen=True)
class Target:
    """A layout.

    Attributes:
        write: writes the files into a folder and returns what the user should know.
        load: loads them with the library that they are for, in a given type.
        has_mask_token: whether masked images can be run.
        judge: whose model `load` runs, for the user.
        stored: the backbone with sums formed that the layout stores; see `verify`.
    """

    write: Callable[[ExportSource, Path], list[str]]
    load: Callable[[Path, torch.dtype], Run]
    has_mask_token: bool
    judge: str
    stored: Callable[[ExportSource], DinoVisionTransformer] = attrgetter("backbone")


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "hub": Target(
            hub.write,
            hub.load,
            has_mask_token=True,
            # Official code is no dependency; the tests load exports with it.
            judge="port's own model of official's names and numbers, official code was not run",
        ),
        "transformers": Target(huggingface.write, huggingface.load, has_mask_token=True, judge="transformers"),
        "timm": Target(
            timm_layout.write, timm_layout.load, has_mask_token=False, judge="timm", stored=timm_layout.stored
        ),
    }
)
"""What `--to` may say."""


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        files: names in the folder.
        verification: how it compares with the backbone; None where the layout's library is not installed.
        unverified: why `verification` is None; otherwise empty.
        notes: how to load it, and what the layout cannot express.
    """

    files: tuple[str, ...]
    verification: Verification | None
    unverified: str
    notes: tuple[str, ...]


def export_backbone(source: ExportSource, target: str, out: Path) -> Exported:
    """Write a backbone in a layout, load it with that layout's library, and compare outputs.

    The folder appears only when the outputs agree, or when the library is not installed and nothing can be compared.

    Args:
        source: what to export.
        target: one of `TARGETS`.
        out: a folder that does not exist yet, or is empty.

    Raises:
        ValueError: the layout cannot express the architecture, or outputs differ.
        OSError: `out` exists and is not empty, or cannot be written.
        ImportError: safetensors is not installed and the layout needs it.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; expected one of {', '.join(TARGETS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; give a new one")
    layout = TARGETS[target]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that renaming it there is one step.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as parent:
        folder = Path(parent) / "export"
        folder.mkdir()
        notes = layout.write(source, folder)
        result, unverified = _verify(layout, source, folder)
        if result and not result.passed:
            raise ValueError(
                f"the exported {target} model computes something else, and was not kept: {result}; "
                f"please report it with the configuration {source.config_file}"
            )
        files = tuple(sorted(file.name for file in folder.iterdir()))
        if out.exists():
            out.rmdir()
        shutil.move(folder, out)
    return Exported(files, result, unverified, tuple(notes))


def _verify(layout: Target, source: ExportSource, folder: Path) -> tuple[Verification | None, str]:
    try:
        result = verify(
            source.backbone,
            partial(layout.load, folder),
            has_mask_token=layout.has_mask_token,
            stored=layout.stored(source),
        )
    except ImportError as error:
        return None, str(error)
    return result, ""
