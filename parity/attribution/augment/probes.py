"""What a stack's augmentation does, measured on drawn test charts: it tells how, whatever random stream it draws from.

A chart shown under many seeds gives shares and ranges: how often a view is flipped, blurred, solarised or grey, how far
brightness, contrast and hue go, how much of the image a crop shows, and with which mean and standard deviation it is
normalised. Two stacks with different numbers do different things; with equal numbers they may still draw differently.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from omegaconf import DictConfig

from parity.attribution.augment.charts import (
    BRIGHT,
    DARK,
    SQUARES,
    VIEWS,
    Levels,
    Normalisation,
    Show,
    checkerboard,
    chess,
    constant,
    corner,
    flat,
)

__all__ = ["Measured", "measure", "measure_normalisation", "squares_seen"]

_COLOUR = (150, 90, 45)  # stays within 0 and 255 under official's jitter
_MANY, _SOME = 100, 60  # seeds under which a chart is shown, for shares and for ranges
_READABLE = 8  # levels between dark and bright; the official jitter leaves 14
_SAME_LEVEL = 1.5  # levels of 255 that rounding may move


@dataclass
class Measured:
    """What was measured of one stack.

    Attributes:
        normalisation: of every view.
        whole: whether crops of the whole image were asked for and given; else the shares below are not measured.
        shares: `VIEW/flipped`, `VIEW/upside down`, `VIEW/blurred`, `VIEW/solarised`, `VIEW/grey` and
            `VIEW/not jittered`: share of the crops, and their number.
        ranges: `brightness`, `contrast`, `hue`, `global area`, `local area` and `aspect`: smallest and largest.
        overshoot: how far a resized edge overshoots, as a share of its height; bicubic does, bilinear does not.
        aliasing: standard deviation, in levels of 255, that a pattern finer than the crop's pixels leaves.
    """

    normalisation: Normalisation
    whole: bool = False
    shares: dict[str, tuple[float, int]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    overshoot: float = 0.0
    aliasing: float = 0.0


def measure_normalisation(stack: Any, config: DictConfig) -> Normalisation:
    """Return the mean and standard deviation with which a stack normalises: black and white stay so in some crops."""
    show = Show(stack, config)
    black = np.stack([c.min((1, 2)) for c in flat(show.whole(constant((0, 0, 0)), 2))]).min(0)
    white = np.stack([c.max((1, 2)) for c in flat(show.whole(constant((255, 255, 255)), 8))]).max(0)
    std = 1 / np.maximum(white - black, 1e-9)
    return Normalisation(tuple((0.0 - black * std).tolist()), tuple(std.tolist()))


def measure(stack: Any, config: DictConfig) -> Measured:
    """Return everything that the charts tell of a stack's augmentation.

    Args:
        stack: offers `augment`.
        config: with official's keys; the scales of crops are read, sizes and numbers are the charts' own.
    """
    measured = Measured(measure_normalisation(stack, config))
    show = Show(stack, config)
    show.normalisation = measured.normalisation
    scales = {"global": config.crops.global_crops_scale, "local": config.crops.local_crops_scale}
    _geometry(show.cut(chess(), scales, _SOME), measured)
    corners = show.whole(corner(), _MANY)
    measured.whole = _is_whole(corners)
    if measured.whole:
        _corners(corners, measured)
        _colours(show.whole(constant(_COLOUR), _MANY), measured)
        fine = show.whole(checkerboard(), 4)
        measured.aliasing = float(np.median([c.mean(0).std() for c in flat(fine)]))
    return measured


def _quarters(crop: Levels) -> Levels:
    """Return the level of each quarter (2, 2), away from its borders, which a blur may touch."""
    grey, half, margin = crop.mean(0), crop.shape[1] // 2, crop.shape[1] // 6
    return np.array(
        [
            [grey[y + margin : y + half - margin, x + margin : x + half - margin].mean() for x in (0, half)]
            for y in (0, half)
        ]
    )


def _is_whole(crops: Mapping[str, list[Levels]]) -> bool:
    """Whether a quarter of the crops' pixels belongs to the quarter that is bright, as in the chart itself."""
    shares = []
    for crop in flat(crops):
        grey = crop.mean(0)
        middle = (grey.max() + grey.min()) / 2
        bright = float((grey > middle).mean())
        shares.append(min(bright, 1 - bright))
    return abs(float(np.median(shares)) - 0.25) < 0.03


def _corners(crops: Mapping[str, list[Levels]], measured: Measured) -> None:
    """Flips, blur, solarisation, brightness and contrast."""
    contrasts, brightnesses = [], []
    chart = (3 * DARK + BRIGHT) / 4
    for view in VIEWS:
        flipped, upside_down, blurred, solarised = [], [], [], []
        for crop in crops[view]:
            quarters = _quarters(crop)
            odd = np.abs(quarters - np.median(quarters))
            blurred.append(len(np.unique(crop.mean(0).round())) > 2)
            if odd.max() < 2:
                continue  # solarisation can bring both levels together
            y, x = np.unravel_index(int(odd.argmax()), (2, 2))
            flipped.append(bool(x))
            upside_down.append(bool(y))
            solarised.append(bool(quarters[y, x] < np.median(quarters)))
            if view != "global_2" and quarters.max() < 253 and not solarised[-1]:
                step, mean = quarters.max() - quarters.min(), (3 * quarters.min() + quarters.max()) / 4
                brightnesses.append(mean / chart)  # contrast is changed about the mean
                contrasts.append(step / mean / ((BRIGHT - DARK) / chart))
        for name, seen in (
            ("flipped", flipped), ("upside down", upside_down), ("blurred", blurred), ("solarised", solarised),
        ):  # fmt: skip
            measured.shares[f"{view}/{name}"] = _share(seen)
    measured.ranges["brightness"], measured.ranges["contrast"] = _range(brightnesses), _range(contrasts)


def _colours(crops: Mapping[str, list[Levels]], measured: Measured) -> None:
    """Grey, unchanged colours, and hue."""
    official = colorsys.rgb_to_hsv(*(value / 255 for value in _COLOUR))[0]
    hues = []
    for view in VIEWS:
        colours = [crop.mean((1, 2)) for crop in crops[view]]
        grey = [float(np.ptp(colour)) < _SAME_LEVEL for colour in colours]
        coloured = [colour for colour, is_grey in zip(colours, grey, strict=True) if not is_grey]
        same = [bool(np.abs(colour - _COLOUR).max() < _SAME_LEVEL) for colour in coloured]
        measured.shares[f"{view}/grey"] = _share(grey)
        measured.shares[f"{view}/not jittered"] = _share(same)
        if view != "global_2":
            turned = [colorsys.rgb_to_hsv(*(colour.clip(0, 255) / 255))[0] - official for colour in coloured]
            hues += [(hue + 0.5) % 1 - 0.5 for hue in turned]
    measured.ranges["hue"] = _range(hues)


def _geometry(crops: Mapping[str, list[Levels]], measured: Measured) -> None:
    """Area and aspect ratio of what a crop shows, counted in squares; how edges are resized."""
    aspects, overshoots = [], []
    for name, views in (("global area", ("global_1", "global_2")), ("local area", ("local",))):
        areas = []
        for crop in (c for view in views for c in crops[view]):
            grey = crop.mean(0)
            row, column = grey[int(grey.std(1).argmax())], grey[:, int(grey.std(0).argmax())]
            width, height = squares_seen(row), squares_seen(column)
            if width and height:
                areas.append(min(width * height, 1.0))
                aspects.append(width / height)
                overshoots.append(_overshoot(row))
        measured.ranges[name] = _range(areas)
    # An edge that is missed makes a crop look twice as wide as it is: the outermost of these say nothing.
    measured.ranges["aspect"] = _range(np.percentile(aspects, (5, 95)).tolist() if aspects else [])
    measured.overshoot = float(np.percentile(overshoots, 75)) if overshoots else 0.0


def squares_seen(line: Levels, squares: int = SQUARES) -> float:
    """Return the share of a chess board's side that a line shows, from the distance of its edges; 0 where it has none.

    Args:
        line: levels along a row or column of a crop (W,).
        squares: along the side of the board.
    """
    if np.ptp(line) < _READABLE:
        return 0.0
    above = line - (line.max() + line.min()) / 2
    places = np.flatnonzero(np.diff(above >= 0))  # a pixel right in the middle is one edge, not two
    if len(places) < 3:
        return 0.0
    exact = places + above[places] / (above[places] - above[places + 1])
    return float(len(line) / ((exact[-1] - exact[0]) / (len(exact) - 1)) / squares)


def _overshoot(line: Levels) -> float:
    middle = (line.max() + line.min()) / 2
    bright, dark = line[line > middle], line[line <= middle]
    return float((line.max() - np.median(bright)) / max(np.median(bright) - np.median(dark), 1.0))


def _share(seen: list[bool]) -> tuple[float, int]:
    return (float(np.mean(seen)), len(seen)) if seen else (0.0, 0)


def _range(values: list[float]) -> tuple[float, float]:
    return (float(np.min(values)), float(np.max(values))) if values else (0.0, 0.0)
