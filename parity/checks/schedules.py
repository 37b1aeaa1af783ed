"""Family `schedules`: learning rate, weight decay, momentum and temperature at every step, and the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parity.attribution.schedules import attribute_schedules
from parity.checks.base import Check, Context, Observation
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
    reference = dict(_leaves(context.reference.default_config()))
    subject = dict(_leaves(context.subject.default_config()))
    for key, value in reference.items():
        if key in subject:
            yield exact(f"default/{key}", value, subject[key])
        else:
            yield missing(f"default/{key}", in_subject=False)


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
)
