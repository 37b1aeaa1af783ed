"""What adapters that `python -m parity adapter` drafted call: small things that every fork needs alike.

An adapter need not import parity; a draft does, to stay short. Nothing here knows a fork.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from omegaconf import DictConfig
from torch import Tensor, nn

from parity.adapters.common import centered_targets
from parity.reference.substitutes.runtime import use_plain_modules

__all__ = [
    "OfficialLayout",
    "centered",
    "flags",
    "register_architecture",
    "scaled",
    "spread",
    "squared",
    "typed",
    "values",
]

Loss = TypeVar("Loss")


def scaled(config: DictConfig) -> DictConfig:
    """Return a copy whose `optim.lr` is set by official's rule for one rank (`dinov2/utils/config.py:21-29`).

    Raises:
        ValueError: the configuration asks for another rule.
    """
    if config.optim.scaling_rule != "sqrt_wrt_1024":
        raise ValueError(f"optim.scaling_rule is {config.optim.scaling_rule!r}, expected 'sqrt_wrt_1024'")
    config = config.copy()
    config.optim.lr = config.optim.base_lr * math.sqrt(config.train.batch_size_per_gpu / 1024.0)
    return config


def flags(parser: ArgumentParser | None, given: Mapping[str, Any]) -> Namespace:
    """Return a parser's defaults with what is given in their place; flags that it requires need no command line."""
    defaults = {action.dest: action.default for action in parser._actions} if parser is not None else {}
    return Namespace(**{**defaults, **given})


def typed(loss: Loss, like: Tensor) -> Loss:
    """Return a loss in the dtype of a tensor, so that its centre does not decide in which precision it computes."""
    return loss.to(like.dtype) if isinstance(loss, nn.Module) else loss


def spread(tokens: Tensor, masks: Tensor) -> Tensor:
    """Return masked tokens (M, K) at their places in their crops (R, N, K), zeros elsewhere.

    Args:
        tokens: in the order of the masks' true elements.
        masks: bool (R, N).
    """
    whole = tokens.new_zeros(*masks.shape, tokens.shape[-1])
    whole[masks] = tokens
    return whole


def squared(masks: Tensor) -> Tensor:
    """Return masks (R, N) as grids (R, √N, √N), for a loss that takes them so."""
    side = math.isqrt(masks.shape[1])
    return masks.reshape(len(masks), side, side)


def centered(loss: Any, teacher_outputs: Sequence[Tensor], teacher_temp: float) -> tuple[list[Tensor], Tensor]:
    """Return the targets of successive batches (M, K), and the centre (K,) with the last update applied.

    A loss whose centre has three dimensions is given batches as official gives them to its iBOT loss, (1, M, K).
    """
    kind = "ibot" if loss.center.dim() == 3 else "dino"
    return centered_targets(loss, kind, teacher_outputs, teacher_temp)


def values(schedule: Any) -> np.ndarray:
    """Return a schedule's values as float64, of a scheduler that keeps them in `schedule` or of a sequence."""
    return np.asarray(getattr(schedule, "schedule", schedule), dtype=np.float64)


def register_architecture(module: ModuleType, transformer: str, config: DictConfig, **keywords: Any) -> None:
    """Let a fork find parity's small architecture by name, beside its own constructors; one that is there stays.

    Args:
        module: where the fork looks its constructors up.
        transformer: the name of its class there.
        config: `student.arch` names the architecture, `architecture` has its sizes.
        keywords: what the fork's own constructors give beside sizes.
    """
    if not hasattr(module, config.student.arch):
        build = partial(getattr(module, transformer), **dict(config.architecture), **keywords)
        setattr(module, config.student.arch, build)


class OfficialLayout:
    """A fork that kept official's training loop, for the functions that run it as it stands.

    It stands for `parity.reference.Reference` in `parity.adapters.official_step` and its neighbours.

    Args:
        train: dotted name of the module that has `do_train`.
        arch: dotted name of the module that has `SSLMetaArch`.
    """

    def __init__(self, train: str, arch: str) -> None:
        self._names = {"train.train": train, "train.ssl_meta_arch": arch}

    def module(self, name: str) -> ModuleType:
        """Return the fork's module for an official one.

        Raises:
            KeyError: official's loop asks for no such module.
        """
        found = import_module(self._names[name])
        if name == "train.ssl_meta_arch" and (hasattr(found, "get_fsdp_modules") or hasattr(found, "get_fsdp_wrapper")):
            use_plain_modules(found)
        return found
