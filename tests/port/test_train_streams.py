from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from train_runs import arguments, in_process, losses, make_images

from port.config import load_config

SHORT = ("optim.epochs=1", "optim.warmup_epochs=0")


def test_a_broken_pipe_while_training_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only a reader of --help or --print-config may go away; a worker's or a peer's end is an error."""

    def fail(*arguments: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("port.step.TrainStep.run", fail)
    assert in_process(monkeypatch, arguments(make_images(tmp_path / "images"), tmp_path / "out")) == 2
    assert capsys.readouterr().err.endswith("error: [Errno 32] Broken pipe\n")


def test_a_stderr_that_takes_nothing_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk messages are lost; the run is done, and a refused one still has its exit code."""
    images = make_images(tmp_path / "images")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stderr", full)
        assert in_process(monkeypatch, arguments(images, tmp_path / "out", *SHORT)) == 0
        assert in_process(monkeypatch, ["optim.epoch=1"]) == 2
        with suppress(OSError):  # what is left in its buffer
            full.close()
    assert len(losses(tmp_path / "out")) == 1


def test_information_is_utf_8_in_every_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that --print-config wrote under a Latin-1 locale loads again, its words intact."""
    for option in ("--print-config", "--help-config"):
        with (tmp_path / "run.yaml").open("w", encoding="latin-1") as file:
            monkeypatch.setattr("sys.stdout", file)
            assert in_process(monkeypatch, ["--output-dir", str(tmp_path / "日本…"), option]) == 0
        if option == "--print-config":
            cfg = load_config(tmp_path / "run.yaml")
            assert cfg.train.output_dir == str(tmp_path / "日本…")
