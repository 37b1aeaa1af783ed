"""Family `schedules`: learning rate, weight decay, momentum and temperature at every step, and the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parity.attribution.schedules import attribute_schedules
from parity.checks.base import Check, Context, NotRunError, Observation
from parity.compare import exact, missing
from parity.results import Comparison
from parity.stack import claims_bitwise
from parity.tables import row
from port.config import load_recipe

__all__ = ["CHECKS"]

_NAMES = ("lr", "wd", "momentum", "teacher_temp", "last_layer_lr")


def _every_step(context: Context) -> Iterator[Observation]:
    """Each schedule, at the recipe's real length and at its small one, in blocks of a hundred steps."""
    recipe = context.required_recipe()
    for label, config in (("small", recipe.config()), ("real", _real_length(context))):
        reference = context.reference.schedules(config)
        subject = context.subject.schedules(config)
        for name in _NAMES:
            if name not in subject:
                yield missing(f"{label}/{name}", in_subject=False)
                continue
            arrays = np.asarray(reference[name]), np.asarray(subject[name])
            yield from _blocks(f"{label}/{name}", *arrays, bitwise=claims_bitwise(context.subject))
        if label == "real":
            yield from attribute_schedules(reference, subject)


def _real_length(context: Context) -> Any:
    """The recipe's configuration with official's epochs and epoch length, where nothing was shrunk."""
    recipe = context.required_recipe()
    config, real = recipe.config(), load_recipe(recipe.base)
    for key in ("epochs", "warmup_epochs", "freeze_last_layer_epochs"):
        config.optim[key] = real.optim[key]
    config.train.OFFICIAL_EPOCH_LENGTH = real.train.OFFICIAL_EPOCH_LENGTH
    config.teacher.warmup_teacher_temp_epochs = real.teacher.warmup_teacher_temp_epochs
    return config


def _blocks(name: str, reference: np.ndarray, subject: np.ndarray, *, bitwise: bool) -> Iterator[Comparison]:
    """One comparison per block of steps, so that the first step that differs is named."""
    if reference.shape != subject.shape:
        yield exact(f"{name}/length", len(reference), len(subject))
        return
    size = max(100, len(reference) // 50)
    for start in range(0, len(reference), size):
        part = slice(start, start + size)
        last = min(start + size, len(reference)) - 1
        yield row(f"{name}/steps {start}-{last}", reference[part].tolist(), subject[part].tolist(), bitwise=bitwise)


def _defaults(context: Context) -> Iterator[Observation]:
    """Every key of official's default configuration has official's value."""
    yield from _same_keys("default", context.reference.default_config(), context.subject.default_config())


def _recipes(context: Context) -> Iterator[Observation]:
    """Every key of official's training recipes has official's value."""
    reference, subject = context.reference.recipe_configs(), context.subject.recipe_configs()
    if not reference:
        raise NotRunError(f"{context.reference_info.version} has no configs/train; use --reference github or a folder")
    for name, config in reference.items():
        if name in subject:
            yield from _same_keys(name, config, subject[name])
        else:
            yield missing(name, in_subject=False)


def _same_keys(name: str, reference: Mapping[str, Any], subject: Mapping[str, Any]) -> Iterator[Comparison]:
    """Compare what official has; keys of the subject's own are its business."""
    mine = dict(_leaves(subject))
    for key, value in _leaves(reference):
        if key in mine:
            yield exact(f"{name}/{key}", value, mine[key])
        else:
            yield missing(f"{name}/{key}", in_subject=False)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten a nested configuration; numbers become floats, since YAML writes 1 and 1.0 alike."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", [float(v) if isinstance(v, int | float) else v for v in value]
        else:
            yield f"{prefix}{key}", value


CHECKS = (
    Check(
        "schedules.every_step",
        "L1",
        "lr, weight decay, EMA momentum, teacher temperature and last-layer lr at every iteration",
        ("dinov2/train/train.py:63-109", "dinov2/utils/utils.py:69-87", "dinov2/utils/config.py:21-29"),
        ("schedules",),
        _every_step,
        recipes="main",
    ),
    Check(
        "schedules.defaults",
        "L1",
        "every key and value of official's default configuration",
        ("dinov2/configs/ssl_default_config.yaml",),
        ("default_config",),
        _defaults,
    ),
    Check(
        "schedules.recipes",
        "L1",
        "every key and value of official's training recipes",
        (
            "dinov2/configs/train/vitl16_short.yaml",
            "dinov2/configs/train/vitl14.yaml",
            "dinov2/configs/train/vitg14.yaml",
        ),
        ("recipe_configs",),
        _recipes,
    ),
)
