"""What evidence is made of: observations, a small official model and batch, counters of torch's calls."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.overrides import TorchFunctionMode

from parity.adapters.official import OfficialStack
from parity.recipes import SMALL_ARCHITECTURES, select_recipes
from parity.reference import Reference, attach_fsdp_methods

__all__ = ["CallCounter", "NotHereError", "Observation", "raised", "small_batch", "small_config", "small_model"]


@dataclass(frozen=True)
class Observation:
    """What official code did.

    Attributes:
        confirmed: whether it does what the quirk says.
        seen: in words, with the numbers that decide.
    """

    confirmed: bool
    seen: str


class NotHereError(Exception):
    """The reference is too old to have what the quirk is about; the message says which commit brought it."""


class CallCounter(TorchFunctionMode):
    """Counts calls of torch's functions by name while it is active, those without tensor arguments too.

    Attributes:
        calls: number of calls by name, e.g. `randperm`.
        devices: the devices that results of these names were on.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = frozenset(names)
        self.calls: Counter[str] = Counter()
        self.devices: set[str] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **dict(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in self._names:
            self.calls[name] += 1
            self.devices.add(result.device.type)
        return result


def raised(call: Callable[[], object], *kinds: type[Exception]) -> Exception | None:
    """Return what a call of official code raised, of the kinds that are looked for, or None where it raised nothing.

    What it raises otherwise goes on: it is neither the quirk nor its end.
    """
    try:
        call()
    except kinds as error:
        return error
    return None


def small_config(**changes: Any) -> DictConfig:
    """Return official's default recipe in parity's small size; a change's `__` stands for the dot of a key."""
    config = copy.deepcopy(_default_config())
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


@lru_cache(maxsize=1)
def _default_config() -> DictConfig:
    """Build the configuration once; each evidence gets a copy, since official writes into it."""
    return select_recipes(("default",), quick=True)[0].config()


def small_model(reference: Reference, config: DictConfig) -> Any:
    """Return official `SSLMetaArch` of a small configuration, with what FSDP would add to its parts."""
    OfficialStack(reference, SMALL_ARCHITECTURES)  # registers the small sizes beside official's
    model = reference.module("train.ssl_meta_arch").SSLMetaArch(config)
    attach_fsdp_methods(*model.student.values(), *model.teacher.values())
    return model


def small_batch(reference: Reference, config: DictConfig, n_images: int = 2) -> dict[str, Any]:
    """Return a batch of random crops, collated by official code in float32."""
    crops = config.crops

    def views(count: int, size: int) -> list[Tensor]:
        return [torch.randn(3, size, size) for _ in range(count)]

    samples = [
        {
            "global_crops": views(2, crops.global_crops_size),
            "local_crops": views(crops.local_crops_number, crops.local_crops_size),
        }
        for _ in range(n_images)
    ]
    return OfficialStack(reference, SMALL_ARCHITECTURES).collate(samples, config, torch.float32)
