"""What the pictures share: figures without global state, one style, and files that appear complete."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ACCENT", "COLOURS", "FAINT", "INK", "new_figure", "save_figure", "style_axes"]

INK = "#333333"
FAINT = "#8a8a8a"
GRID = "#e6e6e6"
ACCENT = "#1f6f9f"
COLOURS = ("#1f6f9f", "#c8553d", "#3d8b5f", "#8a5a9e", "#b8860b", "#4f6d7a")
"""Apart from each other for readers who see fewer colours, too."""

DPI = 130


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure.

    Args:
        width: inches.
        height: inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"pictures need matplotlib ({error}); pip install 'dinov2-parity[train]'") from error
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def style_axes(axes: Axes) -> None:
    """Leave what helps to read values: a light grid, and axes to the left and below."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, png: str | Path) -> Path:
    """Write a PNG; one that exists is replaced at once, so that a reader never sees half of it.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(png)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with warnings.catch_warnings():
            # A folder's name in a script that the font lacks is drawn as boxes.
            warnings.filterwarnings("ignore", r"Glyph \d+ ", UserWarning)
            figure.savefig(unfinished, format="png")
        return unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
