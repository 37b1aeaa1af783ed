"""Self-checks of official's data code: comparing draws under one seed needs draws that the seed decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from parity.results import Comparison
from parity.seeding import seeded

__all__ = ["examine_crops", "examine_orders"]

_IMAGES, _RANKS = 11, 3  # which does not divide evenly
_SKIPPED, _READ = 2, 12  # indices; a rank has three per pass


def examine_crops(official: Any, config: DictConfig) -> Comparison:
    """Crops and the two views of evaluation are the same under the same seed, and random ones differ under another."""
    image = _drawn()
    views: dict[str, tuple[Callable[[int], list[Tensor]], bool]] = {
        "augment": (lambda seed: _flat(official.augment(image.copy(), config, seed)), True),
        "classification view": (lambda seed: [official.classification_view(image.copy(), 16)], True),
        "evaluation view": (lambda seed: [official.evaluation_view(image.copy(), 20, 16)], False),
    }
    wrong, compared = [], 0
    for name, (view, random) in views.items():
        first, again, other = (_under(seed, view) for seed in (5, 5, 6))
        compared += len(first)
        if not _same(first, again) or (random and _same(first, other)):
            wrong.append(name)
    note = f"{compared} crops repeat under a seed" + (f"; not so: {', '.join(wrong)}" if wrong else "")
    return Comparison("doctor/crops", "T0", not wrong and compared > 0, not wrong, note=note)


def examine_orders(official: Any) -> Comparison:
    """Each sampler gives every index of its share once a pass, and started on the way what it gives there anyway."""
    wrong, asked = [], 0
    for name, order in _orders(official):
        asked += 1
        whole = order(0, _READ)
        if len(set(whole[: _IMAGES // _RANKS])) != _IMAGES // _RANKS or not set(whole) <= set(range(_IMAGES)):
            wrong.append(f"{name}: {whole}")
        elif not name.startswith("EPOCH") and order(_SKIPPED, _READ - _SKIPPED) != whole[_SKIPPED:]:
            wrong.append(f"{name} from {_SKIPPED} on")
    note = f"{asked} orders repeat" + (f"; not so: {'; '.join(wrong)}" if wrong else "")
    return Comparison("doctor/orders", "T0", not wrong and asked > 0, not wrong, note=note)


def _orders(official: Any) -> Iterator[tuple[str, Callable[[int, int], list[int]]]]:
    """Yield each sampler's name, and a function of (skipped, read) that asks it as rank 1."""
    for kind in official.sampler_kinds:

        def shuffled(skipped: int, count: int, kind: str = kind) -> list[int]:
            found: list[int] = official.data_order(kind, _IMAGES, 1, _RANKS, 4, skipped, count)
            return found

        def in_order(skipped: int, count: int, kind: str = kind) -> list[int]:
            found: list[int] = official.unshuffled_order(kind, _IMAGES, 1, _RANKS, skipped, count)
            return found

        yield kind, shuffled
        yield f"{kind} unshuffled", in_order


def _drawn() -> Image.Image:
    """Return noise over a gradient, in which every transform changes something."""
    pixels = np.random.default_rng(0).integers(0, 120, (30, 40, 3)) + np.arange(40)[None, :, None] * 3
    return Image.fromarray(pixels.astype(np.uint8))


def _under(seed: int, view: Callable[[int], list[Tensor]]) -> list[Tensor]:
    seeded(seed)
    return view(seed)


def _flat(crops: Any) -> list[Tensor]:
    return [*crops["global_crops"], *crops["local_crops"]]


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
