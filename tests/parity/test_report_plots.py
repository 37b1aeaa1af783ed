from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from fabricated_reports import large, trajectory
from fabricated_results import CLOSE, EQUAL, FAR
from html_reader import Node, read

from parity.report.page.axes import HEIGHT, LEFT, TOP, WIDTH, log_axis, step_axis
from parity.report.page.plots import error_plot, growth_plot
from parity.results import Comparison


def _drawn(comparisons: list[Comparison]) -> Node:
    return read(error_plot(comparisons, "losses")).one("figure")


def _position(node: Node) -> tuple[float, float]:
    """Return the middle of a mark: of a circle, or of a cross that begins three pixels left of and above it."""
    if node.name == "circle":
        return float(node.attributes["cx"]), float(node.attributes["cy"])
    x, y = node.attributes["d"][1:].split("l")[0].split()
    return float(x) + 3, float(y) + 3


def _marks(figure: Node) -> list[Node]:
    return [node for node in figure.all() if node.attributes.get("class") in ("ok", "beyond")]


def test_equal_comparisons_make_no_plot() -> None:
    """Nothing is drawn where there is nothing to see."""
    assert error_plot([EQUAL, replace(EQUAL, error=None)], "losses") == ""
    assert error_plot([], "losses") == ""


def test_marks_lie_on_their_side_of_the_limit() -> None:
    """What passes lies below the line error = allowed, what fails above it, by the pixels of the line itself."""
    figure = _drawn([CLOSE, FAR, replace(CLOSE, error=5e-12, allowed=6e-12), replace(FAR, error=5e-8, allowed=2e-9)])
    path = figure.one("path", class_="limit").attributes["d"]
    (x0, y0), (x1, y1) = (tuple(map(float, end.split())) for end in path[1:].split("L"))
    for mark in _marks(figure):
        x, y = _position(mark)
        on_line = y0 + (x - x0) / (x1 - x0) * (y1 - y0)
        # The pixels grow downwards.
        assert (y < on_line) == (mark.attributes["class"] == "beyond")
    assert len(_marks(figure)) == 4


def test_a_power_of_ten_is_equally_long_everywhere() -> None:
    """The axes are logarithmic: errors of 1e-3, 1e-5 and 1e-7 stand at equal distances."""
    made = [replace(FAR, error=10.0**-power, allowed=1e-8) for power in (3, 5, 7)]
    heights = [_position(mark)[1] for mark in _marks(_drawn(made))]
    first, second, third = sorted(heights)
    assert second - first == pytest.approx(third - second, abs=0.2)


def test_marks_and_captions_name_the_tensors() -> None:
    """A mark tells which comparison it is; the caption counts what is drawn, beyond, equal and without a size."""
    bare = Comparison("key", "T0", passed=False, bitwise=False)
    figure = _drawn([EQUAL, EQUAL, CLOSE, FAR, bare])
    titles = [mark.one("title").text for mark in _marks(figure)]
    assert sorted(titles) == ["gradients/backbone.cls_token: 3e-05, allowed 2e-10", "losses/ibot: 2e-16, allowed 8e-16"]
    assert figure.one("figcaption").text == (
        "losses: 2 drawn, 1 of them beyond what is allowed (crosses); 2 of 5 are equal bit for bit; "
        "1 that differ have no size"
    )


def test_comparisons_on_one_spot_are_drawn_once() -> None:
    """A thousand of nearly one size make one mark, which names the worst and counts the others."""
    made = [replace(CLOSE, name=f"p{n}", error=2e-16 * (1 + n * 1e-5)) for n in range(1000)]
    (mark,) = _marks(_drawn(made))
    assert mark.one("title").text == "p999: 2.02e-16, allowed 8e-16 (and 999 more here)"


def test_a_failure_is_never_hidden_by_passes() -> None:
    """On the same spot, what fails keeps a mark of its own."""
    made = [CLOSE, replace(CLOSE, name="largest element", passed=False)]
    assert sorted(mark.attributes["class"] for mark in _marks(_drawn(made))) == ["beyond", "ok"]


@pytest.mark.parametrize("error", [math.nan, math.inf, 0.0, 5e-324, 1e308])
@pytest.mark.parametrize("allowed", [0.0, 1e-300, math.inf, math.nan, None])
def test_whatever_a_size_is_it_has_a_place_in_the_box(error: float, allowed: float | None) -> None:
    """Zero, infinity, NaN and the extremes of float64 lie inside the frame."""
    (mark,) = _marks(_drawn([replace(FAR, error=error, allowed=allowed)]))
    x, y = _position(mark)
    assert LEFT < x < LEFT + WIDTH
    assert TOP < y < TOP + HEIGHT


def test_exact_rules_stand_at_the_zero_of_the_axis() -> None:
    """What is allowed nothing stands left of everything that is allowed something, and its tick says so."""
    figure = _drawn([replace(FAR, name="exact", allowed=0.0), FAR])
    places = {mark.one("title").text.split(":")[0]: _position(mark)[0] for mark in _marks(figure)}
    assert places["exact"] < places[FAR.name]
    assert "0: exact" in [node.text for node in figure.all("text")]
    assert "0: exact" not in [node.text for node in _drawn([FAR]).all("text")]


def test_plots_of_very_many_stay_small() -> None:
    """24,000 comparisons of all sizes take no more marks than there are spots, and none of them is lost."""
    comparisons = [c for check in large(24_000, fail_every=3).checks for c in check.comparisons]
    figure = _drawn(comparisons)
    assert len(_marks(figure)) < 2000
    counted = sum(
        1 + int((m.one("title").text.split("(and ")[1:] or ["0 "])[0].split()[0].replace(",", ""))
        for m in _marks(figure)
    )
    assert counted == len(comparisons) == 24_000


def test_growth_begins_where_the_difference_does() -> None:
    """Equal up to the third of ten steps: the line lies at zero, then rises evenly, with crosses where it fails."""
    figure = read(growth_plot(trajectory().comparisons, "trajectory.steps[default]")).one("figure")
    lines = [node for node in figure.all("path") if node.attributes["class"].startswith("line")]
    drawn = [node for node in lines if node.all("title")]
    assert [node.one("title").text for node in drawn] == ["init/losses", "init/parameters"]
    points = [tuple(map(float, p.split())) for p in drawn[0].attributes["d"][1:].split("L")]
    assert len(points) == 10
    assert len({y for _, y in points[:4]}) == 1
    rises = [before[1] - after[1] for before, after in pairwise(points[4:])]
    assert rises == pytest.approx([rises[0]] * 5, abs=0.2)
    assert rises[0] > 5
    crosses = figure.all("path", class_="beyond")
    assert len(crosses) == 6
    assert crosses[0].one("title").text == "step 7: init/step 7/losses/ibot_loss: 1e-05, allowed 1e-06"


def test_of_a_kind_the_largest_error_is_shown() -> None:
    """At each step one point for each kind of tensor: the one that failed, else the one with the largest error."""
    made = [
        replace(CLOSE, name=f"step {step}/losses/{name}", error=error, allowed=1e-3)
        for step in range(2)
        for name, error in (("a", 1e-9), ("b", 1e-5))
    ]
    made.append(replace(FAR, name="step 1/losses/c", error=1e-7, allowed=1e-8))
    figure = read(growth_plot(made, "x")).one("figure")
    (cross,) = figure.all("path", class_="beyond")
    assert cross.one("title").text.startswith("step 1: step 1/losses/c")


@pytest.mark.parametrize(
    "comparisons",
    [
        [],
        [CLOSE, FAR],
        [replace(FAR, name="step 3/losses/a")],
        [replace(EQUAL, name=f"step {n}/losses/a") for n in range(5)],
        [replace(FAR, name=f"step {n}/losses/a", error=None) for n in range(5)],
    ],
)
def test_no_growth_is_no_plot(comparisons: list[Comparison]) -> None:
    """Without steps, with one step, with equality throughout or without sizes there is nothing to draw."""
    assert growth_plot(comparisons, "x") == ""


def test_ticks_are_few_and_in_order() -> None:
    """Over 600 powers of ten or over 100,000 steps, at most nine ticks, at whole powers and whole steps."""
    axis = log_axis([1e-300, 1e300], 0, 600, "0")
    assert len(axis.ticks) <= 9
    assert axis.ticks[0][1] == "1e-300"
    steps = step_axis(0, 99_999)
    assert len(steps.ticks) <= 9
    assert [place for place, _ in steps.ticks] == sorted(place for place, _ in steps.ticks)


def test_an_axis_of_one_size_is_not_empty() -> None:
    """One size, or none but zero, still makes an axis of at least one power of ten."""
    for sizes in ([1e-5], [0.0], []):
        axis = log_axis(sizes, 0, 100, "0")
        assert axis.high > axis.low
        assert 0 <= axis.place(1e-5 if sizes == [1e-5] else 0.0) <= 100
