"""Axes of a plot: values to pixels, ticks, and a place for what a logarithm has no place for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from parity.report.page.elements import Html, tag, text

__all__ = ["HEIGHT", "LEFT", "TOP", "WIDTH", "Axis", "coordinate", "frame", "log_axis", "plot", "step_axis"]

LEFT, TOP, WIDTH, HEIGHT = 70, 16, 560, 300
_MARGIN = 24
"""Pixels at either end of a logarithmic axis for zero and for what is not finite."""

_MOST_TICKS = 8


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        low: the value at its start, as a power of ten where it is logarithmic.
        high: the value at its end.
        start: pixel of `low`.
        end: pixel of `high`; less than `start` where the axis points up.
        zero: pixel of zero and of negative values; None on a linear axis.
        beyond: pixel of infinity and NaN; None on a linear axis.
        ticks: pixel and label of each tick.
    """

    low: float
    high: float
    start: float
    end: float
    zero: float | None
    beyond: float | None
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Return the pixel of a value between low and high."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def place(self, size: float) -> float:
        """Return the pixel of a size on a logarithmic axis: zero and what is not finite have places of their own."""
        if not math.isfinite(size) and self.beyond is not None:
            return self.beyond
        if size <= 0 and self.zero is not None:
            return self.zero
        return self.at(math.log10(size))


def coordinate(pixel: float) -> str:
    """Return a pixel as a short number."""
    return f"{pixel:.1f}".removesuffix(".0")


def log_axis(sizes: Iterable[float], start: float, end: float, zero: str) -> Axis:
    """Return a logarithmic axis that holds all sizes.

    Args:
        sizes: zero, infinity and NaN are allowed.
        start: pixel where the axis begins.
        end: pixel where it ends.
        zero: what is written where zero is.
    """
    given = list(sizes)
    powers = [math.log10(size) for size in given if size > 0 and math.isfinite(size)]
    low, high = math.floor(min(powers, default=0.0)), math.ceil(max(powers, default=1.0))
    high = max(high, low + 1)
    margin = math.copysign(_MARGIN, end - start)
    ticks = []
    inner = Axis(low, high, start + margin, end - margin, start + margin / 3, end - margin / 3, ())
    step = max(1, math.ceil((high - low) / _MOST_TICKS))
    ticks += [(inner.at(power), f"1e{power}") for power in range(low, high + 1, step)]
    # Zero has its label where something is there.
    ticks += [(start + margin / 3, zero)] if any(size <= 0 for size in given) else []
    ticks += [(end - margin / 3, "not finite")] if any(not math.isfinite(size) for size in given) else []
    return Axis(low, high, inner.start, inner.end, inner.zero, inner.beyond, tuple(ticks))


def step_axis(first: int, last: int) -> Axis:
    """Return a linear axis of whole steps, `first` < `last`."""
    inner = Axis(first, last, LEFT + 8, LEFT + WIDTH - 8, None, None, ())
    step = max(1, math.ceil((last - first) / _MOST_TICKS))
    ticks = tuple((inner.at(value), str(value)) for value in range(first, last + 1, step))
    return Axis(first, last, inner.start, inner.end, None, None, ticks)


def frame(across: Axis, up: Axis, across_name: str, up_name: str) -> Html:
    """Return the box of a plot with ticks, labels and the names of its axes."""
    bottom, right = TOP + HEIGHT, LEFT + WIDTH
    parts = [tag("path", d=f"M{LEFT} {TOP}H{right}V{bottom}H{LEFT}Z", class_="grid")]
    for x, label in across.ticks:
        parts.append(tag("path", d=f"M{coordinate(x)} {TOP}V{bottom}", class_="grid"))
        parts.append(_label(x, bottom + 16, label, "middle"))
    for y, label in up.ticks:
        parts.append(tag("path", d=f"M{LEFT} {coordinate(y)}H{right}", class_="grid"))
        parts.append(_label(LEFT - 6, y + 4, label, "end"))
    parts.append(_label((LEFT + right) / 2, bottom + 34, across_name, "middle"))
    parts.append(_label(4, TOP - 5, up_name, "start"))
    return Html("".join(parts))


def _label(x: float, y: float, words: str, anchor: str) -> Html:
    return tag("text", text(words), x=coordinate(x), y=coordinate(y), text_anchor=anchor)


def plot(title: str, *children: Html) -> Html:
    """Return the picture that holds a frame and what is drawn in it."""
    width, height = LEFT + WIDTH + 20, TOP + HEIGHT + 44
    size = {"width": str(width), "height": str(height), "viewBox": f"0 0 {width} {height}"}
    return tag("svg", *children, role="img", aria_label=title, **size)
