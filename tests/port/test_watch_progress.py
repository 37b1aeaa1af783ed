from __future__ import annotations

import io
import logging
import re
import threading

import pytest
import torch
import torch.distributed as dist

from port.watch.hardware import hardware_line
from port.watch.progress import TrainingProgress

LOSSES = {"total_loss": 13.625, "dino_local_crops_loss": 9.8581}


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return seconds."""
        return self.now


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        """Return that it is one."""
        return True


def run(progress: TrainingProgress, clock: Clock, iterations: range, seconds: float = 1.0) -> None:
    """Carry out iterations that take equally long."""
    for iteration in iterations:
        clock.now += seconds
        progress.update(iteration, LOSSES, lr=5e-4)


def make(total: int = 100, start: int = 0, stream: io.StringIO | None = None) -> tuple[TrainingProgress, Clock]:
    """Return a progress of 16 images per iteration, with its clock."""
    clock = Clock()
    progress = TrainingProgress(
        total, start=start, images_per_iteration=16, period=10, stream=stream or io.StringIO(), clock=clock
    )
    return progress, clock


def test_lines_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    """A line every ten iterations and at the end, with step, speed, losses, rate and the time to go."""
    stream = io.StringIO()
    progress, clock = make(total=25, stream=stream)
    with caplog.at_level(logging.INFO, logger="port"), progress:
        run(progress, clock, range(25), seconds=2.0)
    assert [record.message for record in caplog.records] == [
        "step 1/25  8.0 images/s  eta 0:00:48  lr 0.0005  total 13.62  dino_local 9.858",
        "step 11/25  8.0 images/s  eta 0:00:28  lr 0.0005  total 13.62  dino_local 9.858",
        "step 21/25  8.0 images/s  eta 0:00:08  lr 0.0005  total 13.62  dino_local 9.858",
        "step 25/25  8.0 images/s  eta 0:00:00  lr 0.0005  total 13.62  dino_local 9.858",
    ]
    assert stream.getvalue() == ""


def test_a_resumed_run_has_its_own_speed(caplog: pytest.LogCaptureFixture) -> None:
    """Q56: 90 of 100 iterations of an earlier session say nothing of the time to go."""
    progress, clock = make(total=100, start=90)
    with caplog.at_level(logging.INFO, logger="port"), progress:
        run(progress, clock, range(90, 91), seconds=60.0)
    assert caplog.messages[0].startswith("step 91/100  0.3 images/s  eta 0:09:00")


def test_speed_is_that_of_the_last_iterations() -> None:
    """A slow start is forgotten after fifty iterations."""
    progress, clock = make(total=1000)
    assert progress.iterations_per_second() == 0.0
    run(progress, clock, range(50), seconds=4.0)
    assert progress.iterations_per_second() == pytest.approx(0.25)
    run(progress, clock, range(50, 100), seconds=0.5)
    assert progress.iterations_per_second() == pytest.approx(2.0)


def test_an_evaluation_does_not_count_as_slowness() -> None:
    """Time that is skipped leaves the speed as it was."""
    progress, clock = make()
    run(progress, clock, range(5))
    clock.now += 1000.0
    progress.skip_time()
    run(progress, clock, range(5, 10))
    assert progress.iterations_per_second() == pytest.approx(1.0)


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It shows steps of the whole run from the resumed one on, gives the cursor back, and logs nothing."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    progress, clock = make(total=40, start=30, stream=stream)
    threads = threading.active_count()
    with caplog.at_level(logging.INFO, logger="port"), progress:
        run(progress, clock, range(30, 40))
        assert threading.active_count() == threads
    shown = stream.getvalue()
    assert "31/40" in shown
    assert "40/40" in shown
    assert "16.0 images/s" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1
    assert caplog.messages == []


def test_a_bar_is_drawn_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand iterations in one second cost five drawings, not a thousand; the last one is always drawn."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    progress, clock = make(total=1000, stream=stream)
    with progress:
        run(progress, clock, range(1000), seconds=0.001)
    drawn = re.findall(r"(\d+)/1000", stream.getvalue())
    assert len(set(drawn)) <= 8
    assert drawn[-1] == "1000"


@pytest.mark.parametrize("columns", ["30", "80"])
def test_a_narrow_terminal_cuts_losses_first(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """Every line fits, and the step is there in full."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)
    stream = Terminal()
    progress, clock = make(total=100000, stream=stream)
    many = {f"loss_number_{i}": 1.0 for i in range(9)}
    with progress:
        clock.now += 1.0
        progress.update(12344, many, lr=1e-3)
    text = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", stream.getvalue())
    assert "12345/100000" in text
    assert max(len(line) for line in re.split(r"[\r\n]", text)) <= int(columns)


def test_an_exception_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor is shown again and the error passes through."""
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    progress, clock = make(stream=stream)

    def interrupted() -> None:
        with progress:
            run(progress, clock, range(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().rstrip("\n").endswith("\x1b[?25h")
    progress.close()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves a bar without colours; without it there are some."""
    monkeypatch.setenv("TERM", "xterm-256color")
    colours = {}
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        stream = Terminal()
        progress, clock = make(stream=stream)
        with progress:
            run(progress, clock, range(2))
        # rich keeps the codes of a style from the first terminal that it drew on, which may have had 16 colours.
        colours[value] = re.findall(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|9[0-7])[;m]", stream.getvalue())
    assert colours[""]
    assert not colours["1"]


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the cursor cannot move, lines are logged."""
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    progress, clock = make(stream=stream)
    with caplog.at_level(logging.INFO, logger="port"), progress:
        run(progress, clock, range(1))
    assert len(caplog.messages) == 1
    assert stream.getvalue() == ""


def test_other_ranks_show_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Disabled, it measures and is silent."""
    clock = Clock()
    stream = Terminal()
    progress = TrainingProgress(9, start=0, images_per_iteration=1, period=1, stream=stream, enabled=False, clock=clock)
    with caplog.at_level(logging.INFO, logger="port"), progress:
        run(progress, clock, range(9))
    assert caplog.messages == []
    assert stream.getvalue() == ""
    assert progress.iterations_per_second() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("total", "start", "period", "message"),
    [
        (10, 0, 0, "logging.period_iterations is 0"),
        (10, 11, 1, "the first iteration is 11, expected 0 to the run's 10"),
    ],
)
def test_numbers_out_of_range(total: int, start: int, period: int, message: str) -> None:
    """A period of 0 and a start after the end are errors that name the value."""
    with pytest.raises(ValueError, match=message):
        TrainingProgress(total, start=start, images_per_iteration=1, period=period, stream=io.StringIO())


def test_the_hardware_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names device, precision, processes, threads and torch's version."""
    line = hardware_line(torch.device("cpu"), "fp32")
    assert re.fullmatch(
        r"hardware: cpu \(.+\), fp32, 1 process, \d+ threads? of \d+ CPUs?, torch .+, Python 3\.\d+\.\d+", line
    )
    assert torch.__version__ in line
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    assert "4 processes" in hardware_line(torch.device("cpu"))


def test_the_hardware_line_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device is named with its memory."""

    class Properties:
        name = "NVIDIA Test"
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert hardware_line(torch.device("cuda", 1)).startswith("hardware: cuda:1 (NVIDIA Test, 80 GiB), 1 process")
