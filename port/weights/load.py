"""Start from weights: official's released ones, a run's, transformers' or timm's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from port.models import DinoVisionTransformer
from port.weights.dialects import to_official
from port.weights.facts import differences, facts_of, first_conflict
from port.weights.files import read_tensors
from port.weights.folders import resolve_file
from port.weights.names import HEADS, canonical, canonical_state, split_parts
from port.weights.position import fit_positions

__all__ = ["LoadReport", "TrainingLoadReport", "fit_backbone", "load_backbone", "load_training_weights", "read_parts"]

OPTIONAL = ("mask_token",)
"""What released weights of other libraries lack, and training can start without."""

ESSENTIAL = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4}
"""What every backbone has, with its number of dimensions."""

IGNORED = ("head.", "classifier.")
"""Classifiers on top of a backbone, which have no place in it."""

Parts = dict[str, dict[str, Tensor]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What was loaded into a backbone.

    Attributes:
        file: where from.
        spelling: whose names the file has: `official`, `transformers` or `timm`.
        resized_from: rows and columns of the file's positions if they were resized, else None.
        resized_to: the model's rows and columns.
        kept: the model's tensors that the file lacks and that keep their initial values.
        ignored: the file's tensors that have no place in a backbone.
    """

    file: Path
    spelling: str
    resized_from: tuple[int, int] | None
    resized_to: tuple[int, int]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        text = f"backbone from {self.file} ({self.spelling} names)"
        if self.resized_from:
            text += f", positions resized from {_times(self.resized_from)} to {_times(self.resized_to)}"
        if self.kept:
            text += f", not in the file: {', '.join(self.kept)}"
        return text


@dataclass(frozen=True)
class TrainingLoadReport:
    """What was loaded into a student or a teacher.

    Attributes:
        backbone: the backbone's report.
        found: of the network's parts, those that the file has, `backbone` included.
        missing: the heads that keep their initial values; warm them up with the backbone frozen
            (`finetune.freeze_backbone_iterations`).
    """

    backbone: LoadReport
    found: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        heads = [part for part in self.found if part != "backbone"]
        text = f"{self.backbone}; heads in the file: {', '.join(heads) or 'none'}"
        return text + (f"; starting anew: {', '.join(self.missing)}" if self.missing else "")


def load_backbone(backbone: nn.Module, path: str | Path, *, setting: str = "student.pretrained_weights") -> LoadReport:
    """Load a backbone, whatever the file's spelling, chunks and wrappers; nothing is changed if it does not fit.

    The file may be bare or under `model`, `state_dict`, `teacher` or `student` (the teacher's is taken where both
    are there), a `.pth` or a `.safetensors`. Positions of another grid are resized, see `fit_positions`.

    Args:
        backbone: a `DinoVisionTransformer`, before it is wrapped.
        path: file, checkpoint, exported folder, or a run's folder (its newest teacher).
        setting: the configuration's key that named `path`, for messages.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or of another architecture: patch size, width, depth, registers, feed-forward.
        TypeError: `backbone` is no `DinoVisionTransformer`.
        ImportError: a `.safetensors` file without safetensors.
    """
    file, parts = read_parts(path, setting=setting)
    state, report = fit_backbone(backbone, parts["backbone"], file, setting)
    backbone.load_state_dict(state)
    return report


def load_training_weights(
    network: nn.ModuleDict, path: str | Path, *, setting: str = "MODEL.WEIGHTS"
) -> TrainingLoadReport:
    """Load a student or teacher: the backbone, and those heads that the file has.

    Nothing is changed if anything does not fit. A head of the file that `network` lacks is not read.

    Args:
        network: `backbone`, `dino_head` and, where separate, `ibot_head`.
        path: see `load_backbone`.
        setting: see `load_backbone`.

    Raises:
        OSError, ValueError, TypeError, ImportError: see `load_backbone`; ValueError also for a head of another shape.
    """
    file, parts = read_parts(path, setting=setting)
    state, report = fit_backbone(network["backbone"], parts["backbone"], file, setting)
    heads = [head for head in HEADS if head in network]
    found = [head for head in heads if parts[head]]
    for head in found:
        _check_head(network[head], head, parts[head], f"{setting}: {file}")
    network["backbone"].load_state_dict(state)
    for head in found:
        network[head].load_state_dict(parts[head])
    return TrainingLoadReport(report, ("backbone", *found), tuple(head for head in heads if head not in found))


def read_parts(path: str | Path, *, setting: str, network: str | None = None) -> tuple[Path, Parts]:
    """Return the file that `path` means, and its `backbone`, `dino_head` and `ibot_head` under canonical names.

    Raises:
        OSError, ValueError, ImportError: see `load_backbone`; the message begins with `setting`.
    """
    try:
        file = resolve_file(path, network)
        parts, _ = split_parts(canonical_state(read_tensors(file)), network)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{setting}: {error}") from error
    except ValueError as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise ValueError(f"{setting}: {where}{error}") from error
    return file, parts


def fit_backbone(
    backbone: nn.Module, state: Mapping[str, Tensor], file: Path, setting: str
) -> tuple[State, LoadReport]:
    """Return a state dict that loads strictly into `backbone`, and the report."""
    if not isinstance(backbone, DinoVisionTransformer):
        raise TypeError(f"expected a DinoVisionTransformer, not yet wrapped; got {type(backbone).__name__}")
    where = f"{setting}: {file}"
    state, spelling = to_official(state)
    spelled = {canonical(name): name for name in backbone.state_dict()}
    model: State = dict(zip(spelled, backbone.state_dict().values(), strict=True))
    ignored = tuple(name for name in state if name.startswith(IGNORED))
    state = {name: value for name, value in state.items() if name not in ignored}
    _check_architecture(state, model, where)
    grid = backbone.patch_embed.patches_resolution
    learned = state["pos_embed"].shape[1] - 1
    try:
        state["pos_embed"] = fit_positions(
            state["pos_embed"], grid, antialias=backbone.interpolate_antialias, offset=backbone.interpolate_offset
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    kept = tuple(name for name in OPTIONAL if name not in state)
    state = {**{name: model[name] for name in kept}, **state}
    _check_tensors(state, model, where)
    side = int(learned**0.5)
    resized_from = (side, side) if learned != grid[0] * grid[1] else None
    return {spelled[name]: value for name, value in state.items()}, LoadReport(
        file, spelling, resized_from, grid, kept, ignored
    )


def _check_architecture(state: Mapping[str, Tensor], model: Mapping[str, Tensor], where: str) -> None:
    if not set(state) & set(model):
        raise ValueError(
            f"{where} has no key of this backbone, expected e.g. {next(iter(model))!r}, has e.g. "
            f"{next(iter(state), 'none')!r}; convert the checkpoint's names to official's first "
            "(transformers' Dinov2Model and timm's vision transformers are understood as they are)"
        )
    essential = [name for name in ESSENTIAL if name not in state]
    if essential:
        raise ValueError(f"{where} lacks {', '.join(essential)}; expected a whole backbone with official's names")
    for name in (*ESSENTIAL, "register_tokens"):
        if name in state and state[name].ndim != ESSENTIAL.get(name, 3):
            raise ValueError(
                f"{where}: {name} has {state[name].ndim} dimensions {tuple(state[name].shape)}, "
                f"expected {ESSENTIAL.get(name, 3)}; it is no backbone of this kind"
            )
    said, settings = differences(facts_of(state), facts_of(model))
    if said:
        compared = {name: value for name, value in model.items() if name not in OPTIONAL or name in state}
        conflict = first_conflict(state, compared)
        advice = f"; to train the file's architecture, set {' '.join(settings)}" if settings else ""
        raise ValueError(f"{where} is of another architecture: {'; '.join(said)} ({conflict}){advice}")


def _check_tensors(state: Mapping[str, Tensor], model: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError unless names and shapes are the model's, and every value is a finite floating-point number."""
    problems = [f"{name} is missing" for name in model if name not in state]
    problems += [f"{name} has no place in the model" for name in state if name not in model]
    for name, value in state.items():
        if name not in model:
            continue
        if value.shape != model[name].shape:
            problems.append(f"{name} is {tuple(value.shape)} in the file, {tuple(model[name].shape)} in the model")
        elif not value.is_floating_point():
            # Quantised numbers need a scale that is not here, and complex ones would lose a part.
            problems.append(f"{name} is {value.dtype}, expected floating point (dequantise the checkpoint first)")
        elif not torch.isfinite(value).all():
            problems.append(f"{name} has values that are not finite")
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{where} does not fit: {'; '.join(problems[:3])}{more}")


def _check_head(head: nn.Module, name: str, state: Mapping[str, Tensor], where: str) -> None:
    try:
        _check_tensors(state, head.state_dict(), where)
    except ValueError as error:
        section = name.partition("_")[0]
        raise ValueError(
            f"{error} ({name}); set {section}.head_n_prototypes, head_hidden_dim, head_bottleneck_dim and head_nlayers "
            "to the file's, or take its backbone alone: student.pretrained_weights instead of MODEL.WEIGHTS"
        ) from error


def _times(grid: tuple[int, int]) -> str:
    return f"{grid[0]}×{grid[1]}"
