"""The ways in which files spell one network: released, in training, under wrappers, in chunks, weight-normalised."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from parity.names import canonical

__all__ = ["files", "flat_backbone"]

_BLOCK = re.compile(r"(^|\.)blocks\.(\d+)\.")
_WEIGHT_NORM = re.compile(r"\.weight_([gv])$")


def flat_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the teacher's backbone without prefixes and chunks, as released files are.

    Args:
        state: names as in `init_state`.
    """
    return _backbone(_teacher(state))


def files(state: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return contents of files that hold the same teacher, by what is special about each.

    Args:
        state: names as in `init_state`, without centres.
    """
    spelled = {n.removeprefix("teacher."): t for n, t in state.items() if n.startswith("teacher.")}
    teacher = _teacher(state)
    backbone = _backbone(teacher)
    model_names = {n.removeprefix("backbone."): t for n, t in spelled.items() if n.startswith("backbone.")}
    return {
        # `do_test` writes this (`dinov2/train/train.py:134`).
        "teacher of an evaluation": {"teacher": dict(spelled)},
        "backbone in the model's own names": model_names,
        "backbone under model": {"model": model_names},
        "module. before each name": {"teacher": {f"module.{name}": tensor for name, tensor in spelled.items()}},
        "released, without chunks": backbone,
        "blocks in chunks of three": {_chunked(name, 3): tensor for name, tensor in backbone.items()},
        "both networks of a training": {"model": dict(state)},
        "_orig_mod. before each name": {"teacher": {f"_orig_mod.{name}": tensor for name, tensor in spelled.items()}},
        "weight norm as a parametrization": {"teacher": {_parametrized(name): t for name, t in spelled.items()}},
    }


def _teacher(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {canonical(n.removeprefix("teacher.")): t for n, t in state.items() if n.startswith("teacher.")}


def _backbone(network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix("backbone."): t for n, t in network.items() if n.startswith("backbone.")}


def _chunked(name: str, size: int) -> str:
    """`blocks.3.…` to `blocks.1.3.…` with three blocks in a chunk: official keeps a block's number in its chunk."""
    return _BLOCK.sub(lambda match: f"{match[1]}blocks.{int(match[2]) // size}.{match[2]}.", name)


def _parametrized(name: str) -> str:
    """`last_layer.weight_g` to what torch.nn.utils.parametrizations.weight_norm calls it."""
    return _WEIGHT_NORM.sub(lambda match: f".parametrizations.weight.original{'gv'.index(match[1])}", name)
