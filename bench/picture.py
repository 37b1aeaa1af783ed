"""The picture: how fast each arm is, beside what FLOPs allow, how much memory it takes, and the required ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from bench.figures import Verdict
from port.watch.figures import INK, new_figure, save_figure

__all__ = ["draw"]

COLOURS = {
    "three-view": "#b5b8bd",
    "separate": "#86a7c8",
    "unified": "#1f5f99",
    "packed": "#123a5e",
    "official": "#d98a3d",
}
"""Grey for what is left behind, blues for `port`, orange for official."""
WORDS = {"reached": "#2e7d4f", "not reached": "#b3423a", "not measured": "#9a9a9a"}
PALE = "#e4e6e9"
SMALLEST_RATIO = 1 / 32


def draw(benchmarks: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict], title: str, path: Path) -> None:
    """Write a PNG; without arms there is still the panel of ratios.

    Args:
        benchmarks: of pytest-benchmark's JSON.
        verdicts: of the same run.
        title: what was measured.
        path: where to write.
    """
    whole = [b["extra_info"] for b in benchmarks if b["extra_info"].get("kind") == "arm"]
    whole = [info for info in whole if info["stage"] == "step"]
    whole.sort(key=lambda info: list(COLOURS).index(info["arm"]))
    figure = new_figure(11, 6.6)
    figure.suptitle("One training step", x=0.01, ha="left", fontsize=15, fontweight="bold", color=INK)
    figure.supxlabel(title, fontsize=8, x=0.01, ha="left", color=INK)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.3])  # an array, which matplotlib's types do not say
    arms, required = halves
    speed, memory = arms.subplots(1, 2)
    _bars(speed, whole, "images_per_s", "images per second", "{:.2f}")
    _limits(speed, whole)
    _bars(memory, whole, "peak_mib", "peak memory above weights and optimizer, MiB", "{:,.0f}")
    _ratios(required.subplots(), verdicts)
    save_figure(figure, path)


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    axes.set_xticks([])


def _bars(axes: Axes, infos: Sequence[Mapping[str, Any]], key: str, title: str, form: str) -> None:
    """Draw a bar per arm, its number at its end."""
    values = [info[key] or 0.0 for info in infos]
    bars = axes.barh(range(len(infos)), values, height=0.62, color=[COLOURS[info["arm"]] for info in infos])
    axes.bar_label(bars, [form.format(value) if value else "not measured" for value in values], padding=4, color=INK)
    axes.set_yticks(range(len(infos)), [info["arm"] for info in infos])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(values, default=1.0) or 1.0)
    _bare(axes, title)


def _limits(axes: Axes, infos: Sequence[Mapping[str, Any]]) -> None:
    """Mark where each arm would be if it ran three-view's FLOPs per second."""
    base = next((info["images_per_s"] for info in infos if info["arm"] == "three-view"), None)
    for row, info in enumerate(infos):
        if base is not None and info.get("flops_allow") and info["arm"] != "three-view":
            limit = base * info["flops_allow"]
            axes.plot([limit, limit], [row - 0.38, row + 0.38], color=INK, linewidth=1.6)
            axes.set_xlim(0, max(axes.get_xlim()[1], 1.3 * limit))
    axes.set_xlabel("line: three-view's speed times what FLOPs allow", loc="left", fontsize=8, color=INK)


def _ratios(axes: Axes, verdicts: Sequence[Verdict]) -> None:
    """Draw each required ratio as a share of its bound, so that 1 is the line to pass."""
    for row, verdict in enumerate(verdicts):
        bound, measured, colour = verdict.required.bound, verdict.measured, WORDS[verdict.word]
        share = (
            0.0
            if measured is None
            else (bound / max(measured, SMALLEST_RATIO) if verdict.required.at_most else measured / bound)
        )
        axes.barh(row, 2.0, height=0.62, color=PALE)
        axes.barh(row, min(share, 2.0), height=0.62, color=colour)
        number = "-" if measured is None else f"{measured:.2f}"
        asked = f"{'at most' if verdict.required.at_most else 'at least'} {bound:g}"
        axes.text(2.04, row, f"{number}  ({asked})  {verdict.word}", va="center", fontsize=8.5, color=colour)
    axes.axvline(1.0, color=INK, linewidth=1.2)
    axes.set_yticks(range(len(verdicts)), [verdict.required.what for verdict in verdicts], fontsize=8.5)
    axes.set_xlim(0, 3.0)
    axes.invert_yaxis()
    _bare(axes, "required ratios: the line is the bound, right of it is reached")
