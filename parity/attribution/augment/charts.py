"""Test charts, and the crops that a stack makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from parity.seeding import seeded

__all__ = [
    "BRIGHT",
    "DARK",
    "SQUARES",
    "VIEWS",
    "Levels",
    "Normalisation",
    "Show",
    "checkerboard",
    "chess",
    "constant",
    "corner",
    "flat",
]

VIEWS = ("global_1", "global_2", "local")
Levels = NDArray[np.float64]
DARK, BRIGHT = 110, 150  # of 255; within it under official's jitter, all of it at once
SQUARES = 16  # along the chart whose crops are measured

_SIDE = 32  # pixels of a chart that is shown whole
_GEOMETRY_SIDE = 128  # pixels of the one that is cut
_CUT_SIDE = 64  # pixels of a crop of it
_LOCALS = 1  # local crops per seed


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, of RGB in 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Show:
    """Shows charts to a stack and reads its crops in levels of 0 to 255."""

    def __init__(self, stack: Any, config: DictConfig) -> None:
        self._stack = stack
        self._config = config.copy()
        self._config.crops.local_crops_number = _LOCALS
        self.normalisation = Normalisation((0.0,) * 3, (1 / 255,) * 3)

    def whole(self, chart: Levels, seeds: int) -> dict[str, list[Levels]]:
        """Return crops of the whole chart, `_SIDE` pixels wide, by view; levels (3, H, W)."""
        crops = self._config.crops
        crops.global_crops_scale, crops.local_crops_scale = [1.0, 1.0], [1.0, 1.0]
        crops.global_crops_size = crops.local_crops_size = _SIDE
        return self._crops(chart, seeds)

    def cut(self, chart: Levels, scales: Mapping[str, Any], seeds: int) -> dict[str, list[Levels]]:
        """Return crops at the configured scales."""
        crops = self._config.crops
        crops.global_crops_scale, crops.local_crops_scale = list(scales["global"]), list(scales["local"])
        crops.global_crops_size = crops.local_crops_size = _CUT_SIDE
        return self._crops(chart, seeds)

    def _crops(self, chart: Levels, seeds: int) -> dict[str, list[Levels]]:
        image = Image.fromarray(chart.astype(np.uint8))
        found: dict[str, list[Levels]] = {view: [] for view in VIEWS}
        for seed in range(seeds):
            seeded(seed)
            made = self._stack.augment(image.copy(), self._config, seed)
            for view, crop in zip(VIEWS, made["global_crops"][:2], strict=False):
                found[view].append(self._levels(crop))
            found["local"] += [self._levels(crop) for crop in made["local_crops"]]
        return found

    def _levels(self, crop: Tensor) -> Levels:
        values = crop.detach().cpu().numpy().astype(np.float64)
        mean, std = (np.array(v).reshape(-1, 1, 1) for v in (self.normalisation.mean, self.normalisation.std))
        levels: Levels = (values * std + mean) * 255
        return levels


def constant(colour: tuple[int, int, int]) -> Levels:
    """One colour all over."""
    chart: Levels = np.broadcast_to(np.array(colour, dtype=np.float64), (_SIDE, _SIDE, 3)).copy()
    return chart


def corner() -> Levels:
    """Dark, with the upper left quarter bright: no change of a pixel by itself gives a third level."""
    chart: Levels = np.full((_SIDE, _SIDE, 3), float(DARK))
    chart[: _SIDE // 2, : _SIDE // 2] = BRIGHT
    return chart


def chess() -> Levels:
    """Squares dark and bright, whose edges tell how much of the chart a crop shows."""
    square = np.arange(_GEOMETRY_SIDE) // (_GEOMETRY_SIDE // SQUARES)
    odd = (square[:, None] + square[None, :]) % 2 == 1
    chart: Levels = np.where(odd, float(BRIGHT), float(DARK))[:, :, None].repeat(3, axis=2)
    return chart


def checkerboard() -> Levels:
    """Pixels in turn dark and bright, three times as many as a crop has."""
    row = np.arange(3 * _SIDE)
    chart: Levels = np.where((row[:, None] + row) % 2 == 1, 200.0, 50.0)[:, :, None].repeat(3, axis=2)
    return chart


def flat(crops: Mapping[str, list[Levels]]) -> list[Levels]:
    """Return the crops of all views."""
    return [crop for found in crops.values() for crop in found]
