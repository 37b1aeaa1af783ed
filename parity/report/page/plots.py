"""Plots as inline SVG: the error of each comparison against what is allowed, and how a difference grows over steps.

A plot shows what was not equal bit for bit, and says how much was. Comparisons that fall on one spot are drawn once, so
that a hundred thousand of them take no more room than a few hundred.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from parity.report.numbers import count, number
from parity.report.page.axes import HEIGHT, LEFT, TOP, WIDTH, Axis, coordinate, frame, log_axis, plot, step_axis
from parity.report.page.elements import Html, joined, tag, text
from parity.report.wording import ratio
from parity.results import Comparison

__all__ = ["error_plot", "growth_plot"]

_SPOT = 6
"""Side of the squares, in pixels, within which comparisons are drawn once."""

_STEP = re.compile(r"(?P<before>.*?)step (?P<step>\d+)/(?P<part>[^/]+)")
_COLOURS = 6


@dataclass
class _Spot:
    """Comparisons that are drawn as one mark: how many, and the one nearest to its limit."""

    many: int
    worst: Comparison


def error_plot(comparisons: Sequence[Comparison], title: str) -> Html:
    """Return error against allowed error on logarithmic axes, or nothing where all are equal bit for bit.

    Args:
        comparisons: what one family compared.
        title: names the family to those who cannot see the plot.
    """
    sized = [c for c in comparisons if c.error is not None and not (c.passed and c.bitwise)]
    if not sized:
        return Html("")
    across = log_axis([c.allowed or 0.0 for c in sized], LEFT, LEFT + WIDTH, "0: exact")
    up = log_axis([c.error or 0.0 for c in sized], TOP + HEIGHT, TOP, "0")
    spots: dict[tuple[int, int, bool], _Spot] = {}
    for comparison in sized:
        x, y = across.place(comparison.allowed or 0.0), up.place(comparison.error or 0.0)
        key = round(x / _SPOT), round(y / _SPOT), comparison.passed
        spot = spots.setdefault(key, _Spot(0, comparison))
        spot.many += 1
        if (ratio(comparison) or 0.0) > (ratio(spot.worst) or 0.0):
            spot.worst = comparison
    marks = [_mark(spot, across, up) for _, spot in sorted(spots.items())]
    drawing = plot(title, frame(across, up, "allowed", "error"), _limit(across, up), *marks)
    equal = sum(c.bitwise for c in comparisons)
    bare = sum(c.error is None and not c.passed for c in comparisons)
    beyond = sum(not c.passed for c in sized)
    told = f"{title}: {count(len(sized))} drawn, {count(beyond)} of them beyond what is allowed (crosses); "
    told += f"{count(equal)} of {count(len(comparisons))} are equal bit for bit"
    told += f"; {count(bare)} that differ have no size" if bare else ""
    return tag("figure", drawing, tag("figcaption", text(told)))


def _mark(spot: _Spot, across: Axis, up: Axis) -> Html:
    x, y = across.place(spot.worst.allowed or 0.0), up.place(spot.worst.error or 0.0)
    worst = spot.worst
    told = f"{worst.name}: {number(worst.error)}, allowed {number(worst.allowed)}"
    told += f" (and {count(spot.many - 1)} more here)" if spot.many > 1 else ""
    name = tag("title", text(told))
    if not worst.passed:
        return _cross(x, y, name)
    radius = min(2.0 + math.log10(spot.many), 4.5)
    return tag("circle", name, cx=coordinate(x), cy=coordinate(y), r=coordinate(radius), class_="ok")


def _cross(x: float, y: float, name: Html) -> Html:
    return tag("path", name, d=f"M{coordinate(x - 3)} {coordinate(y - 3)}l6 6m0-6l-6 6", class_="beyond")


def _limit(across: Axis, up: Axis) -> Html:
    """Return the line on which the error is exactly what is allowed, where it crosses the plot."""
    low, high = max(across.low, up.low), min(across.high, up.high)
    if low >= high:
        return Html("")
    ends = [f"{coordinate(across.at(value))} {coordinate(up.at(value))}" for value in (low, high)]
    return tag("path", tag("title", text("error = allowed")), d=f"M{ends[0]}L{ends[1]}", class_="limit")


def growth_plot(comparisons: Iterable[Comparison], title: str) -> Html:
    """Return the largest error of each kind of tensor at each step, or nothing where there are no steps that differ.

    Args:
        comparisons: those whose names hold `step N/KIND/` are shown.
        title: names the check.
    """
    series: dict[str, dict[int, list[Comparison]]] = {}
    for comparison in comparisons:
        found = _STEP.match(comparison.name)
        if found and comparison.error is not None:
            kind = f"{found['before']}{found['part']}"
            series.setdefault(kind, {}).setdefault(int(found["step"]), []).append(comparison)
    series = {
        kind: steps for kind, steps in series.items() if any(not c.bitwise for made in steps.values() for c in made)
    }
    every = sorted({step for steps in series.values() for step in steps})
    if len(every) < 2:
        return Html("")
    largest = {kind: {step: _largest(made) for step, made in sorted(s.items())} for kind, s in series.items()}
    across = step_axis(every[0], every[-1])
    up = log_axis([c.error or 0.0 for steps in largest.values() for c in steps.values()], TOP + HEIGHT, TOP, "0")
    lines = [_line(place, kind, steps, across, up) for place, (kind, steps) in enumerate(largest.items())]
    drawing = plot(title, frame(across, up, "step", "largest error"), *lines)
    key = joined((_key(place, kind) for place, kind in enumerate(largest)), "")
    caption = f"{title}: the largest error of each kind of tensor at each step; crosses are beyond what is allowed"
    return tag("figure", drawing, tag("figcaption", text(caption)), tag("div", key, class_="row"))


def _largest(made: Sequence[Comparison]) -> Comparison:
    """Return the comparison with the largest error, one that failed before all that passed."""
    return max(made, key=lambda c: (not c.passed, math.inf if c.error is None or math.isnan(c.error) else c.error))


def _line(place: int, kind: str, steps: Mapping[int, Comparison], across: Axis, up: Axis) -> Html:
    points = [(across.at(step), up.place(c.error or 0.0), c, step) for step, c in steps.items()]
    path = "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y, _, _ in points)
    name = tag("title", text(kind))
    crosses = [
        _cross(x, y, tag("title", text(f"step {step}: {c.name}: {number(c.error)}, allowed {number(c.allowed)}")))
        for x, y, c, step in points
        if not c.passed
    ]
    return joined([tag("path", name, d=f"M{path}", class_=_class(place)), *crosses], "")


def _class(place: int) -> str:
    return f"line s{place % _COLOURS}{' dashed' * (place // _COLOURS % 2)}"


def _key(place: int, kind: str) -> Html:
    sample = tag("path", d="M0 6h26", class_=_class(place))
    return tag("span", tag("svg", sample, width="26", height="12", viewBox="0 0 26 12"), text(kind))
