from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from port.watch import figures
from port.watch.plots import plot_knn_curves, plot_losses, smoothed

CURVES = {
    "seed 0": [(0, 0.50), (100, 0.55), (200, 0.60)],
    "seed 1": [(0, 0.54), (100, 0.57)],
    "seed 2": [(0, 0.52), (100, 0.59), (300, 0.7)],
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved while a test runs."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        saved.append(figure)
        save(figure, *args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def panels(figure: Figure) -> dict[str, Axes]:
    """Return the panels by title."""
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def metrics_file(folder: Path, *lines: dict[str, object]) -> Path:
    """Write a metrics file."""
    path = folder / "training_metrics.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def training_lines(n: int) -> list[dict[str, object]]:
    """Return a run's lines."""
    return [
        {"iteration": i, "ibot_loss": 1.0 - i / n, "total_loss": 10.0 - i, "lr": 1e-3 * i, "mom": 0.992, "wd": 0.04}
        for i in range(n)
    ]


def test_each_metric_has_a_panel_with_units(tmp_path: Path, drawn: list[Figure]) -> None:
    """Losses in nats, total first, then schedules, then k-NN; what is neither is left out."""
    file = metrics_file(
        tmp_path,
        *training_lines(5),
        {"iteration": 2, "knn_accuracy": 0.5},
        {"iteration": 4, "knn_accuracy": 0.6, "gradient_norm/backbone": 1.0},
    )
    png = plot_losses(file, tmp_path / "pictures" / "losses.png", title="a run")
    shown = panels(drawn[0])
    assert list(shown) == ["total", "ibot", "learning rate", "teacher momentum", "k-NN accuracy"]
    assert shown["total"].get_ylabel() == "nats"
    assert shown["k-NN accuracy"].get_ylabel() == "share correct"
    assert shown["k-NN accuracy"].get_xlabel() == "iteration"
    (accuracy,) = shown["k-NN accuracy"].get_lines()
    assert np.asarray(accuracy.get_xydata()).tolist() == [[2.0, 0.5], [4.0, 0.6]]
    raw, _ = shown["total"].get_lines()
    assert np.asarray(raw.get_ydata()).tolist() == [10.0, 9.0, 8.0, 7.0, 6.0]
    with Image.open(png) as image:
        assert image.size[0] > 1000
        assert len(image.convert("RGB").getcolors(maxcolors=2**24) or []) > 10


def test_a_loss_that_was_not_finite_is_a_gap(tmp_path: Path, drawn: list[Figure]) -> None:
    """Null breaks the line instead of falling to 0, and does not spoil what is smoothed around it."""
    lines = training_lines(200)
    lines[100]["total_loss"] = None
    plot_losses(metrics_file(tmp_path, *lines), tmp_path / "losses.png")
    raw, smooth = panels(drawn[0])["total"].get_lines()
    assert math.isnan(np.asarray(raw.get_ydata())[100])
    assert np.isfinite(np.asarray(smooth.get_ydata())).all()


def test_a_single_iteration_can_be_drawn(tmp_path: Path) -> None:
    """A run of one step has a picture."""
    assert plot_losses(metrics_file(tmp_path, *training_lines(1)), tmp_path / "losses.png").stat().st_size > 0


def test_a_file_without_losses_is_an_error(tmp_path: Path) -> None:
    """It is named, with what was expected."""
    with pytest.raises(ValueError, match=r"training_metrics\.json has no value whose name ends in '_loss'"):
        plot_losses(metrics_file(tmp_path, {"iteration": 0, "lr": 1.0}), tmp_path / "losses.png")


def test_smoothing_by_hand() -> None:
    """A mean of three, of two at the ends; NaN counts for nothing; width 1 is the values themselves."""
    values = np.array([1.0, 3.0, 5.0, float("nan"), 9.0])
    assert smoothed(values, 3).tolist() == [2.0, 3.0, 4.0, 7.0, 9.0]
    assert smoothed(values, 1)[:3].tolist() == [1.0, 3.0, 5.0]
    assert np.isnan(smoothed(np.full(3, np.nan), 3)).all()


def test_knn_curves_with_their_mean_and_what_to_beat(tmp_path: Path, drawn: list[Figure]) -> None:
    """One line per seed, the mean at common steps, a line and a band per baseline, names with values."""
    baselines = {"raw pixels": [0.26], "untrained": [0.50, 0.52, 0.54]}
    plot_knn_curves(CURVES, tmp_path / "knn.png", baselines=baselines)
    (axes,) = drawn[0].axes
    *seeds, mean, raw, untrained = axes.get_lines()
    assert [len(np.asarray(line.get_xdata())) for line in seeds] == [3, 2, 3]
    assert np.asarray(mean.get_xdata()).tolist() == [0, 100]
    assert np.asarray(mean.get_ydata()) == pytest.approx([0.52, 0.57])
    assert np.asarray(raw.get_ydata()) == pytest.approx([0.26, 0.26])
    assert np.asarray(untrained.get_ydata()) == pytest.approx([0.52, 0.52])
    names = {text.get_text() for text in axes.texts}
    assert {"raw pixels 0.26", "untrained 0.52", "mean 0.57"} <= names
    assert axes.get_xlabel() == "training step"
    assert "share correct" in axes.get_ylabel()


def test_names_of_lines_do_not_overlap(tmp_path: Path, drawn: list[Figure]) -> None:
    """Three values within a hundredth have names at a distance."""
    plot_knn_curves({"0": [(0, 0.5), (9, 0.9)]}, tmp_path / "knn.png", baselines={"a": [0.9], "b": [0.901]})
    places = sorted(text.xy[1] for text in drawn[0].axes[0].texts if hasattr(text, "xy"))
    assert len(places) == 3
    assert min(np.diff(places)) >= 0.04


@pytest.mark.parametrize(
    ("curves", "baselines", "message"),
    [
        ({}, {}, "no point"),
        ({"0": []}, {}, "no point"),
        ({"0": [(0, 0.5)]}, {"untrained": []}, "no point"),
        ({"0": [(0, 0.5)], "1": [(1, 0.5)]}, {}, "no step in common"),
    ],
)
def test_curves_without_points_are_errors(
    tmp_path: Path, curves: dict[str, list[tuple[int, float]]], baselines: dict[str, list[float]], message: str
) -> None:
    """There is nothing to draw, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        plot_knn_curves(curves, tmp_path / "knn.png", baselines=baselines)
    assert list(tmp_path.iterdir()) == []


def test_a_title_that_the_font_lacks_is_drawn(tmp_path: Path) -> None:
    """A folder's name in any script: without a warning, which would be an error here, and without losing the curve."""
    assert plot_losses(metrics_file(tmp_path, *training_lines(3)), tmp_path / "x.png", "\u65e5\u672c").exists()


def test_matplotlib_missing_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the command that installs it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'dinov2-parity\[train\]'"):
        figures.new_figure(1, 1)


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk raises OSError, keeps the picture there was, and leaves no half of one."""
    png = plot_knn_curves(CURVES, tmp_path / "knn.png")
    before = png.read_bytes()

    def full(figure: Figure, path: Path, **kwargs: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        plot_knn_curves(CURVES, png)
    assert png.read_bytes() == before
    assert list(tmp_path.iterdir()) == [png]


def test_pictures_touch_no_global_state(tmp_path: Path) -> None:
    """pyplot, which keeps figures and picks a display, is never imported by them."""
    before = set(sys.modules)
    plot_knn_curves(CURVES, tmp_path / "knn.png")
    assert "matplotlib.pyplot" not in set(sys.modules) - before
