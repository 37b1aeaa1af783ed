"""Pictures of a run: losses and schedules over its iterations, k-NN accuracy over its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from port.watch.figures import ACCENT, COLOURS, FAINT, INK, new_figure, save_figure, style_axes
from port.watch.jsonlines import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_knn_curves", "plot_losses", "smoothed"]

COLUMNS = 3
LABEL_HEIGHT = 0.045
"""Of a line's name, as a share of the axes' height."""

SCHEDULES = {
    "lr": "learning rate",
    "mom": "teacher momentum",
    "momentum": "teacher momentum",
    "teacher_momentum": "teacher momentum",
}
Series = tuple[NDArray[np.int64], NDArray[np.float64]]


def plot_losses(metrics_file: str | Path, png: str | Path, title: str = "") -> Path:
    """Draw a run's metrics, one panel each: losses, learning rate, teacher momentum, and k-NN accuracy if there is any.

    Losses are drawn as they are, faintly, and smoothed over a fiftieth of the run.

    Args:
        metrics_file: `training_metrics.json`. Drawn are names that end in `_loss`, those of `SCHEDULES`, and names that
            start with `knn` or `knn_`; a name with a slash is left out.
        png: the picture; replaced if it exists.
        title: above the panels.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: a file cannot be read or written.
        ValueError: there is no loss in the file.
    """
    series = _series(read_metrics(metrics_file))
    losses = [name for name in series if name.endswith("_loss")]
    if not losses:
        raise ValueError(f"{metrics_file} has no value whose name ends in '_loss', expected a training run's metrics")
    losses.sort(key=lambda name: name != "total_loss")
    knn = [name for name in series if name.startswith("knn")]
    panels = [*losses, *(name for name in SCHEDULES if name in series), *knn]
    rows = math.ceil(len(panels) / COLUMNS)
    figure = new_figure(3.6 * COLUMNS, 0.5 + 2.3 * rows)
    grid = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).flatten()
    for i, (axes, name) in enumerate(zip(grid, panels, strict=False)):
        style_axes(axes)
        _draw_panel(axes, name, *series[name])
        if i + COLUMNS >= len(panels):
            axes.set_xlabel("iteration", fontsize=8, color=INK)
            axes.tick_params(labelbottom=True)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return save_figure(figure, png)


def plot_knn_curves(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    png: str | Path,
    *,
    baselines: Mapping[str, Sequence[float]] | None = None,
    title: str = "k-NN accuracy on held-out images",
) -> Path:
    """Draw accuracy over training steps: a line per seed, their mean, and what to beat as horizontal bands.

    Args:
        curves: (step, accuracy in 0 to 1) of each seed, by a name that is not drawn. The mean is drawn where all
            seeds have a value.
        png: the picture; replaced if it exists.
        baselines: accuracies, one per seed or a single one, by label, such as `raw pixels` and `untrained`; a line at
            their mean, and a band from the least to the greatest.
        title: above the picture.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the picture cannot be written.
        ValueError: there is no curve, or one is empty.
    """
    if not curves or not all(curves.values()) or not all((baselines or {}).values()):
        raise ValueError("a k-NN curve or baseline has no point, expected at least one (step, accuracy) for each")
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots()
    style_axes(axes)
    for points in curves.values():
        axes.plot(*zip(*points, strict=True), color=ACCENT, alpha=0.4, linewidth=1.1, marker="o", markersize=2.5)
    steps, mean = _mean_curve(list(curves.values()))
    axes.plot(steps, mean, color=ACCENT, linewidth=2.6, marker="o", markersize=4)
    axes.set_xlim(left=0)
    lines = [(mean[-1], f"mean {mean[-1]:.2f}", ACCENT)]
    for (label, values), colour in zip((baselines or {}).items(), COLOURS[1:] * 9, strict=False):
        middle = sum(values) / len(values)
        axes.axhspan(min(values), max(values), color=colour, alpha=0.15, linewidth=0)
        axes.axhline(middle, color=colour, linewidth=1.6, linestyle=(0, (5, 2)))
        lines.append((middle, f"{label} {middle:.2f}", colour))
    _name_lines(axes, lines)
    axes.set_xlabel("training step", fontsize=9, color=INK)
    axes.set_ylabel("k-NN accuracy (share correct)", fontsize=9, color=INK)
    n_seeds = len(curves)
    shown = f"thin: {n_seeds} seeds, thick: their mean" if n_seeds > 1 else "1 seed"
    if baselines:
        shown += "; dashed: mean of what to beat, band: its least to greatest"
    axes.set_title(f"{title}\n", fontsize=11, color=INK, loc="left")
    axes.text(0, 1.02, shown, transform=axes.transAxes, fontsize=8, color=FAINT)
    return save_figure(figure, png)


def smoothed(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the mean over `width` values around each, fewer at the ends; NaN counts for nothing."""
    kernel = np.ones(2 * (width // 2) + 1)
    known = np.isfinite(values)
    offset = len(kernel) // 2
    sums = np.convolve(np.where(known, values, 0.0), kernel)[offset : offset + len(values)]
    counts = np.convolve(known.astype(float), kernel)[offset : offset + len(values)]
    means = np.full(len(values), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _series(lines: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Return iterations and values by name; NaN for values that were not finite."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("iteration", "nonfinite") and "/" not in name:
                points.setdefault(name, []).append((line["iteration"], math.nan if value is None else float(value)))
    series = {}
    for name, pairs in points.items():
        iterations, values = zip(*pairs, strict=True)
        series[name] = np.array(iterations, dtype=np.int64), np.array(values, dtype=np.float64)
    return series


def _draw_panel(axes: Axes, name: str, iterations: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    if name.endswith("_loss"):
        title, unit = name.removesuffix("_loss").replace("_", " "), "nats"
        axes.plot(iterations, values, color=ACCENT, alpha=0.3, linewidth=0.8)
        axes.plot(iterations, smoothed(values, max(1, len(values) // 50)), color=ACCENT, linewidth=1.7)
    elif name in SCHEDULES:
        title, unit = SCHEDULES[name], ""
        axes.plot(iterations, values, color=FAINT, linewidth=1.7)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useOffset=False)
        axes.yaxis.get_offset_text().set_fontsize(8)
    else:
        title, unit = name.replace("_", " ").replace("knn", "k-NN"), "share correct"
        axes.plot(iterations, values, color=COLOURS[1], linewidth=1.4, marker="o", markersize=4)
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    if unit:
        axes.set_ylabel(unit, fontsize=8, color=INK)


def _mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[float]]:
    by_step = [dict(points) for points in curves]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:]))
    if not steps:
        raise ValueError("the k-NN curves have no step in common, expected the same steps for all seeds")
    return steps, [sum(values[step] for values in by_step) / len(by_step) for step in steps]


def _name_lines(axes: Axes, lines: Sequence[tuple[float, str, str]]) -> None:
    """Write names in their lines' colours beside the right ends, moved apart where they would overlap.

    Args:
        axes: with its final limits.
        lines: value, name and colour of each.
    """
    bottom, top = axes.get_ylim()
    place = -math.inf
    for value, name, colour in sorted(lines):
        place = max((value - bottom) / (top - bottom), place + LABEL_HEIGHT)
        axes.annotate(name, (1.01, place), xycoords="axes fraction", va="center", fontsize=9, color=colour)
