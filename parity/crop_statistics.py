"""What a crop shows and how its colours were changed, read off a chart drawn for it, whatever drew the numbers.

The chart is a chess board whose squares all carry a tint that tells where they are: red against blue from left to
right, green against both from top to bottom, none in the middle. A crop's squares tell its area and aspect ratio, the
slope of its tint whether it is flipped, slope and tint together its place; its steepest edge tells of blur, a crop
without a bright pixel of solarisation, one without tint that it is grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parity.attribution.augment.probes import squares_seen

__all__ = ["chart", "chart_features", "levels_of", "photograph_features"]

Levels = NDArray[np.float64]

_SIDE = 160  # pixels of the chart: more than a crop has, so that edges are as sharp in every crop
_SQUARES = 16
_DARK, _BRIGHT = 90, 226  # of 255; neither reaches 0, and bright stays above half, in nearly all of official's jitter
_TINT = (20.0, 14.0)  # levels at the border: red against blue, green against both
_BRIGHTEST_SOLARISED = 127.5  # official inverts what is at least 128 (`dinov2/data/augmentations.py:78`)
_GREY = 2.5  # levels between channels that rounding leaves of a tint
_STEEP = 0.5  # share of an edge's height within one pixel that a visible blur does not leave
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # `dinov2/data/transforms.py:41-42`

_READ = (
    "shows its squares", "area", "aspect", "column of the middle", "row of the middle", "flipped", "upside down",
    "grey", "solarised", "blurred", "sharpness", "level", "contrast", "saturation", "turn of the hue",
)  # fmt: skip
_SPREAD = ("area", "aspect", "level", "contrast", "saturation")

_ACROSS = np.array([1.0, 0.0, -1.0])  # the tint's direction from left to right, in RGB
_DOWN = np.array([-0.5, 1.0, -0.5])
# Two axes of equal length in the plane of tints: brightness has no part in it, and turning the hue turns this plane.
_PLANE = np.stack([_ACROSS / math.sqrt(2), _DOWN / math.sqrt(1.5)])


@dataclass(frozen=True)
class _Tint:
    """Tints fitted to a crop: its change over the crop's width and height, and the tint in the middle, (2,) each."""

    across: Levels
    down: Levels
    middle: Levels


def chart() -> Image.Image:
    """Return the chart, an RGB image of 16 by 16 squares."""
    square = np.arange(_SIDE) // (_SIDE // _SQUARES)
    bright = (square[:, None] + square[None, :]) % 2 == 1
    place = (np.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    tint = _TINT[0] * place[None, :, None] * _ACROSS + _TINT[1] * place[:, None, None] * _DOWN
    return Image.fromarray((np.where(bright, _BRIGHT, _DARK)[:, :, None] + tint).round().astype(np.uint8))


def levels_of(crop: NDArray[np.float32]) -> Levels:
    """Return levels of 0 to 255 (3, H, W) of a crop normalised as official's are."""
    std, mean = (np.array(values).reshape(3, 1, 1) for values in (_STD, _MEAN))
    levels: Levels = (crop.astype(np.float64) * std + mean) * 255
    return levels


def chart_features(crops: Sequence[Levels]) -> Mapping[str, float]:
    """Describe crops of the chart (3, H, W) that are one batch.

    Returns:
        By name in words: shares in 0 to 1, levels in 0 to 255, hue in degrees; `aspect` is width over height in powers
        of e, `sharpness` the share of an edge's height within one pixel. Means leave out the crops that do not show
        what is asked for; NaN where none does. A spread is the standard deviation within the batch.
    """
    read = [_read(crop) for crop in crops]
    columns = {name: np.array([one.get(name, math.nan) for one in read]) for name in _READ}
    found = {name: _mean(values) for name, values in columns.items()}
    for name in _SPREAD:
        values = columns[name][np.isfinite(columns[name])]
        found[f"spread of the {name}"] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return found


def photograph_features(crops: Sequence[Levels]) -> Mapping[str, float]:
    """Describe crops of photographs (3, H, W) that are one batch, by name in words.

    Levels are of 255; sharpness is the mean step between neighbours as a share of the deviation of all pixels.
    """
    rows = []
    for crop in crops:
        grey = crop.mean(0)
        step = (np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
        deviation = grey.std()
        chroma = np.ptp(crop, axis=0).mean()
        rows.append((grey.mean(), deviation, chroma, step / deviation if deviation > 1 else math.nan))
    names = ("level", "contrast", "saturation", "sharpness")
    return {f"{name} of photographs": _mean(column) for name, column in zip(names, np.array(rows).T, strict=True)}


def _mean(values: Levels) -> float:
    """Return the mean of what is there; NaN where nothing is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _read(crop: Levels) -> dict[str, float]:
    """Return what one crop shows; what it does not show is left out."""
    grey = crop.mean(0)
    row, column = grey[int(grey.std(1).argmax())], grey[:, int(grey.std(0).argmax())]
    width, height = squares_seen(row, _SQUARES), squares_seen(column, _SQUARES)
    solarised = bool(crop.max() < _BRIGHTEST_SOLARISED)
    colourless = bool(np.ptp(crop, axis=0).max() < _GREY)
    steepest = max(_steepest(row), _steepest(column))
    found = {
        "grey": float(colourless),
        "solarised": float(solarised),
        "level": float(grey.mean()),
        "contrast": float(grey.std()),
        "shows its squares": float(width > 0 and height > 0),
    }
    if math.isfinite(steepest):
        found |= {"sharpness": steepest, "blurred": float(steepest < _STEEP)}
    if width and height:
        found |= {"area": min(width * height, 1.0), "aspect": math.log(width / height)}
    tint = None if colourless or solarised else _tint(crop, grey)  # solarisation turns the tint of some squares round
    return found if tint is None else {**found, **_placed(tint, width, height)}


def _steepest(line: Levels) -> float:
    """Return the largest step between neighbours as a share of the line's height; NaN where it has none."""
    height = float(np.ptp(line))
    return float(np.abs(np.diff(line)).max() / height) if height > 8 else math.nan


def _tint(crop: Levels, grey: Levels) -> _Tint | None:
    """Fit a plane to the tints of the dark squares, which jitter seldom takes to the end of the scale."""
    ys, xs = np.nonzero(grey < grey.min() + 0.3 * np.ptp(grey))
    if len(ys) < 12:
        return None
    _, height, width = crop.shape
    places = np.stack([np.ones(len(ys)), (xs + 0.5) / width - 0.5, (ys + 0.5) / height - 0.5], axis=1)
    tints = _PLANE @ crop[:, ys, xs]
    fitted, _, rank, _ = np.linalg.lstsq(places, tints.T, rcond=None)
    return _Tint(fitted[1], fitted[2], fitted[0]) if rank == 3 else None


def _placed(tint: _Tint, width: float, height: float) -> dict[str, float]:
    """Return flips, hue, strength of the tint, and the place of the crop's middle in the chart."""
    found = {"flipped": float(tint.across[0] < 0), "upside down": float(tint.down[1] < 0)}
    sign = -1 if found["flipped"] else 1
    turned = sign * tint.across
    found["turn of the hue"] = abs(math.degrees(math.atan2(turned[1], turned[0])))
    if not width or not height:
        return found
    found["saturation"] = float(np.hypot(*tint.across)) / width / (2 * math.sqrt(2))  # levels of red at the border
    # Slopes over the crop and the tint in its middle were changed by the same linear map of the plane.
    slopes = np.stack(
        [tint.across / (sign * width), tint.down / ((-1 if found["upside down"] else 1) * height)], axis=1
    )
    if np.linalg.cond(slopes) < 20:
        x, y = np.linalg.solve(slopes, tint.middle) + 0.5
        found |= {"column of the middle": float(np.clip(x, 0, 1)), "row of the middle": float(np.clip(y, 0, 1))}
    return found
