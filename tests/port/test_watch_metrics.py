from __future__ import annotations

import errno
import importlib
import json
import logging
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import tiny_config

from port.watch.jsonlines import METRICS_FILE, JsonLines, _line, read_metrics
from port.watch.metrics import WANDB_ID_FILE, MetricWriter


def writer(folder: Path, **arguments: Any) -> MetricWriter:
    """Return a writer of JSON lines alone."""
    options = {"tensorboard": False, "wandb_project": "", "config": {}, "resume_iteration": 0, **arguments}
    return MetricWriter(folder, **options)


def logged(folder: Path, n: int) -> Path:
    """Return the file of a run of n iterations."""
    with writer(folder) as metrics:
        for iteration in range(n):
            metrics.write(iteration, {"total_loss": 1 / (iteration + 3)})
    return folder / METRICS_FILE


class FakeWandb(ModuleType):
    """Stands for wandb: keeps what it is told, and fails where it is asked to."""

    def __init__(self, fail: str = "") -> None:
        super().__init__("wandb")
        self.fail = fail
        self.told: list[tuple[str, Any]] = []

    def init(self, **arguments: Any) -> SimpleNamespace:
        """Start a run."""
        self.tell("init", arguments)
        return SimpleNamespace(
            log=lambda values, step: self.tell("log", (values, step)), finish=lambda: self.tell("finish", None)
        )

    def tell(self, what: str, value: Any) -> None:
        """Keep it, or fail."""
        if what == self.fail:
            raise ConnectionError("no network")
        self.told.append((what, value))


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(min_value=0, max_value=2**53))
def test_floats_read_back_equal(value: float, iteration: int) -> None:
    """Every finite float survives, bit for bit, and the iteration with it."""
    line = _line(iteration, {"x": value})
    assert json.loads(line) == {"iteration": iteration, "x": value}
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


def test_values_that_are_not_finite_stay_valid_json(tmp_path: Path) -> None:
    """They are null, and `nonfinite` says which they were; strict parsers read the file."""
    with writer(tmp_path) as metrics:
        metrics.write(3, {"a": math.nan, "b": -math.inf, "c": 1.5})

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    line = json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=refuse)
    assert line == {"iteration": 3, "a": None, "b": None, "c": 1.5, "nonfinite": {"a": "nan", "b": "-inf"}}
    assert next(iter(line)) == "iteration"


@pytest.mark.parametrize("name", ["iteration", "nonfinite"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    """A metric cannot take the place of a line's own keys."""
    with writer(tmp_path) as metrics, pytest.raises(ValueError, match=f"'{name}', expected any other name"):
        metrics.write(0, {name: 1.0})


def test_a_resumed_run_continues_the_file_exactly(tmp_path: Path) -> None:
    """Killed at 7 with a torn line, resumed at 5: the file is that of a run that was never disturbed."""
    undisturbed = logged(tmp_path / "undisturbed", 9).read_bytes()
    file = logged(tmp_path / "killed", 7)
    with file.open("ab") as stream:
        stream.write(b'{"iteration": 7, "total_l')
    with writer(tmp_path / "killed", resume_iteration=5) as metrics:
        for iteration in range(5, 9):
            metrics.write(iteration, {"total_loss": 1 / (iteration + 3)})
    assert file.read_bytes() == undisturbed
    assert [path.name for path in file.parent.iterdir()] == [METRICS_FILE]


def test_a_line_without_its_end_gets_it(tmp_path: Path) -> None:
    """A kill just before the newline loses nothing and joins no lines."""
    file = logged(tmp_path, 3)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    writer(tmp_path, resume_iteration=3).close()
    assert file.read_bytes() == whole


def test_several_lines_of_one_iteration_stay_or_go_together(tmp_path: Path) -> None:
    """An evaluation's line has its iteration; a file that ends before the resumed one is left alone."""
    with writer(tmp_path) as metrics:
        for iteration in range(3):
            metrics.write(iteration, {"total_loss": 1.0})
            metrics.write(iteration, {"knn_accuracy": 0.5})
    file = tmp_path / METRICS_FILE
    before = file.stat().st_ino
    writer(tmp_path, resume_iteration=3).close()
    assert file.stat().st_ino == before
    writer(tmp_path, resume_iteration=2).close()
    assert [line["iteration"] for line in read_metrics(file)] == [0, 0, 1, 1]


def test_a_fresh_start_begins_an_empty_file(tmp_path: Path) -> None:
    """Lines of a run that died before its first checkpoint go, those from before its first step too."""
    file = logged(tmp_path, 3)
    file.write_bytes(b'{"iteration": -1, "knn_accuracy": 0.5}\n' + file.read_bytes())
    writer(tmp_path).close()
    assert file.read_bytes() == b""


def test_readers_skip_what_is_no_line(tmp_path: Path) -> None:
    """Torn lines, broken characters and other JSON are left out."""
    file = tmp_path / METRICS_FILE
    file.write_bytes(b'{"iteration": 0, "x": 1.0}\n{"iter\n\xff\xfe\n[1]\n{"x": 2}\n{"iteration": 1, "x": null}\n')
    assert read_metrics(file) == [{"iteration": 0, "x": 1.0}, {"iteration": 1, "x": None}]


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    """Before the first step there is still time: the file is named."""
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(OSError, match=METRICS_FILE):
        writer(tmp_path)


def test_a_full_disk_costs_lines_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-written line is taken back, training goes on, and lines come again once there is space."""
    lines = JsonLines(tmp_path / METRICS_FILE, 0)
    lines.write(0, {"x": 1.0})
    real = lines._file

    class Full:
        """A file on a disk that takes five more bytes."""

        def write(self, content: bytes) -> int:
            """Write a little, then fail."""
            if len(content) > 5 and not hasattr(self, "used"):
                self.used = True
                return real.write(content[:5]) or 0
            raise OSError(errno.ENOSPC, "No space left on device")

        def truncate(self, size: int) -> int:
            """Truncate the real file."""
            return real.truncate(size)

    monkeypatch.setattr(lines, "_file", Full())
    with caplog.at_level(logging.WARNING, logger="port"):
        lines.write(1, {"x": 2.0})
        lines.write(2, {"x": 3.0})
    monkeypatch.setattr(lines, "_file", real)
    lines.write(3, {"x": 4.0})
    lines.close()
    assert (tmp_path / METRICS_FILE).read_text() == '{"iteration": 0, "x": 1.0}\n{"iteration": 3, "x": 4.0}\n'
    assert len(caplog.records) == 1
    assert METRICS_FILE in caplog.text
    assert "No space left on device at iteration 1" in caplog.text


def test_tensorboard_gets_scalars_and_forgets_what_is_repeated(tmp_path: Path) -> None:
    """Event files can be read back; after a resume each step is there once, with its later value."""
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    for resume_iteration, n, value in ((0, 4, 1.0), (2, 5, 2.0)):
        with writer(tmp_path, tensorboard=True, resume_iteration=resume_iteration) as metrics:
            for iteration in range(resume_iteration, n):
                metrics.write(iteration, {"total_loss": value})
            metrics.flush()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("total_loss")]
    assert scalars == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 2.0)]


@pytest.mark.parametrize(
    ("option", "module"), [({"tensorboard": True}, "tensorboard"), ({"wandb_project": "p"}, "wandb")]
)
def test_a_missing_extra_is_one_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    option: dict[str, Any],
    module: str,
) -> None:
    """The warning names the command that installs it, and JSON lines are written all the same."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with caplog.at_level(logging.WARNING, logger="port"), writer(tmp_path, **option) as metrics:
        metrics.write(0, {"x": 1.0})
        metrics.write(1, {"x": 2.0})
    assert len(caplog.records) == 1
    assert "pip install 'dinov2-parity[" in caplog.text
    assert len(read_metrics(tmp_path / METRICS_FILE)) == 2


def test_wandb_resumes_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id is kept in the output folder, so a resumed run continues the same W&B run, with its configuration."""
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for start in (0, 1):
        with writer(tmp_path, wandb_project="p", config=tiny_config(), resume_iteration=start) as metrics:
            metrics.write(start, {"x": 1.5})
    names = [what for what, _ in wandb.told]
    assert names == ["init", "log", "finish"] * 2
    first, second = wandb.told[0][1], wandb.told[3][1]
    assert first["id"] == second["id"] == (tmp_path / WANDB_ID_FILE).read_text().strip()
    assert first["resume"] == "allow"
    assert first["project"] == "p"
    assert first["config"]["student"]["patch_size"] == 4
    assert wandb.told[4][1] == ({"x": 1.5}, 1)


@pytest.mark.parametrize("fail", ["init", "log", "finish"])
def test_wandb_never_stops_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fail: str
) -> None:
    """Whatever fails there is one warning; the other places get every line."""
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(fail))
    with caplog.at_level(logging.WARNING, logger="port"), writer(tmp_path, wandb_project="p") as metrics:
        for iteration in range(3):
            metrics.write(iteration, {"x": 1.0})
    assert len(caplog.records) == 1
    assert "no network" in caplog.text
    assert len(read_metrics(tmp_path / METRICS_FILE)) == 3


def test_a_closed_writer_is_silent(tmp_path: Path) -> None:
    """Closing twice is harmless, and nothing is written afterwards."""
    metrics = writer(tmp_path)
    metrics.close()
    metrics.close()
    metrics.write(0, {"x": 1.0})
    assert read_metrics(tmp_path / METRICS_FILE) == []


@pytest.mark.parametrize(("rank", "expected"), [(0, [{"iteration": 0, "x": 1.0}]), (1, None)])
def test_only_rank_0_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, expected: list[dict[str, float]] | None
) -> None:
    """Another rank creates no file and accepts every call."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    with writer(tmp_path / "run", tensorboard=rank > 0) as metrics:
        metrics.write(0, {"x": 1.0})
        metrics.flush()
    file = tmp_path / "run" / METRICS_FILE
    assert (read_metrics(file) if file.exists() else None) == expected
