from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from bench import learns
from bench.learns import CONFIG, Outcome, SeedResult, main, verdict
from port.cli import load_run_config, parse_arguments
from port.preflight import check_before_training


def result(seed: int, untrained: float, trained: float, raw_pixels: float = 0.2) -> SeedResult:
    """Return a training of 100 iterations that was best in its middle."""
    return SeedResult(seed, {0: untrained, 50: 0.99, 100: trained}, raw_pixels)


class Trainings:
    """Takes the place of `port/train.py`: writes `knn.json` as the runs would, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gain: float = 0.3, fail_with: int = 0) -> None:
        self.commands: list[Sequence[str]] = []
        self.gain, self.fail_with = gain, fail_with
        monkeypatch.setattr(learns, "train", self)

    def __call__(self, argv: Sequence[str]) -> int:
        """Train."""
        self.commands.append(argv)
        folder = Path(argv[argv.index("--output-dir") + 1])
        folder.mkdir(parents=True)
        start = 0.3 + 0.01 * len(self.commands)
        # Keys are strings, and in the order in which they were written, after a resume.
        curve = {"100": start + self.gain, "0": start}
        (folder / "knn.json").write_text(json.dumps({"raw_pixels": 0.25, "n_test": 9, "curve": curve}))
        return self.fail_with


def test_means_and_spread_by_hand() -> None:
    """Spread is the larger of both ranges; the last value counts, not the best."""
    outcome = verdict([result(0, 0.30, 0.50), result(1, 0.34, 0.52), result(2, 0.32, 0.54)])
    assert outcome.untrained == pytest.approx(0.32)
    assert outcome.trained == pytest.approx(0.52)
    assert outcome.spread == pytest.approx(0.04)
    assert outcome.raw_pixels == 0.2
    assert outcome.learnt


@pytest.mark.parametrize(
    ("outcome", "learnt"),
    [
        (Outcome(trained=0.50, untrained=0.40, raw_pixels=0.2, spread=0.09), True),
        (Outcome(trained=0.50, untrained=0.40, raw_pixels=0.2, spread=0.11), False),
        (Outcome(trained=0.50, untrained=0.20, raw_pixels=0.4, spread=0.09), True),
        (Outcome(trained=0.50, untrained=0.20, raw_pixels=0.45, spread=0.09), False),
        (Outcome(trained=0.30, untrained=0.40, raw_pixels=0.2, spread=0.0), False),
        (Outcome(trained=0.40, untrained=0.40, raw_pixels=0.2, spread=0.0), False),
    ],
)
def test_both_must_be_beaten_by_more_than_the_spread(outcome: Outcome, learnt: bool) -> None:
    """A gain within the spread over seeds, over untrained features or over raw pixels, proves nothing."""
    assert outcome.learnt is learnt


def test_one_seed_has_no_spread() -> None:
    """It is an error, not a spread of zero."""
    with pytest.raises(ValueError, match="1 training has no spread"):
        verdict([result(0, 0.3, 0.5)])


def test_one_measurement_is_no_training() -> None:
    """A curve of one point cannot tell before from after."""
    with pytest.raises(ValueError, match=r"seeds \[4\] were measured once"):
        verdict([result(0, 0.3, 0.5), SeedResult(4, {0: 0.3}, 0.2)])


def test_three_seeds_are_trained_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each seed has a folder and the same settings; table, picture and JSON tell the same."""
    trainings = Trainings(monkeypatch)
    assert main(["--output-dir", str(tmp_path)]) == 0
    assert [command[4] for command in trainings.commands] == [f"train.seed={seed}" for seed in (0, 1, 2)]
    assert {command[5] for command in trainings.commands} == {
        "knn.test_dataset=skimage:split=test:size=96:grey=true:normalise=true"
    }
    shown = capsys.readouterr().out
    assert "LEARNT: 0.620 after training, +0.300 against untrained, +0.370 against raw pixels, spread over" in shown
    document = json.loads((tmp_path / "learns.json").read_text())
    assert document["learnt"] is True
    assert document["split"] == "test"
    assert [seed["curve"] for seed in document["seeds"]] == [
        {"0": pytest.approx(start), "100": pytest.approx(start + 0.3)} for start in (0.31, 0.32, 0.33)
    ]
    with Image.open(tmp_path / "learns.png") as picture:
        assert picture.width > 600


def test_no_gain_is_exit_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A gain of half the spread is not learning; the numbers are reported all the same."""
    Trainings(monkeypatch, gain=0.01)
    assert main(["--output-dir", str(tmp_path)]) == 1
    assert "NOT LEARNT" in capsys.readouterr().out
    assert (tmp_path / "learns.json").exists()


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (2, 2), (75, 1)])
def test_a_training_that_fails_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: int
) -> None:
    """What could not start is 2, what was stopped or failed is 1; no verdict comes of fewer seeds."""
    trainings = Trainings(monkeypatch, fail_with=code)
    assert main(["--output-dir", str(tmp_path)]) == expected
    assert len(trainings.commands) == 1
    assert not (tmp_path / "learns.json").exists()


def test_one_seed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its accuracy stays in its folder; exit code 2."""
    Trainings(monkeypatch)
    assert main(["--output-dir", str(tmp_path), "--seeds", "7", "--split", "val"]) == 2
    assert "expected at least 2 seeds" in capsys.readouterr().err
    assert (tmp_path / "val-seed-7" / "knn.json").exists()


def test_the_configuration_is_one_that_runs() -> None:
    """learns.yaml passes the checks before training, and measures on tiles that neither train nor vote."""
    cfg = load_run_config(parse_arguments(["--config-file", str(CONFIG), "optim.epochs=12"]))
    check_before_training(cfg, world_size=1, n_images=1000, device_type="cpu")
    assert "split=train" in cfg.train.dataset_path
    assert "split=train" in cfg.knn.train_dataset
    assert cfg.knn.period_iterations > 0
