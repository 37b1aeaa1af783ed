from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection

import pytest

from bench.settings import Settings
from bench.worker import ArmError, Worker, time_arm

TINY = Settings(
    arch="vit_parity4", batch=2, prototypes=16, local_crops=2, global_size=64, local_size=32, reference="pypi"
)


def runs_out(pipe: Connection) -> None:
    """Fail as Python does without memory."""
    raise MemoryError


def is_wrong(pipe: Connection) -> None:
    """Fail for another reason."""
    raise ValueError("seven")


def is_killed(pipe: Connection) -> None:
    """End as a process ends that the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("arm", ["three-view", "official"])
def test_an_arm_is_timed_one_iteration_at_a_time(arm: str) -> None:
    """Counted first, then a time and the ceiling for each `go`, then the memory; official's training loop included."""
    with Worker(time_arm, "arm", TINY, arm, "step") as worker:
        ready = worker.receive()
        turns = [worker.iterate() for _ in range(2)]
        worker.send("stop")
        peak = worker.receive()["peak"]
    assert ready["flops"] > 10**6
    assert all(turn.seconds > 0 and turn.ceiling > 0 for turn in turns)
    assert peak is None or peak >= 0


def test_an_arm_that_runs_out_of_memory_is_one_line() -> None:
    """A batch of a billion images: torch's CPU allocator refuses, and its words are passed on."""
    huge = Settings(arch="vit_parity4", batch=10**9, prototypes=16, local_crops=2)
    with (
        pytest.raises(ArmError, match=r"^arm unified, step: out of memory \(.*allocate.*\)$") as caught,
        Worker(time_arm, "arm unified, step", huge, "unified", "step") as worker,
    ):
        worker.receive()
    assert "\n" not in str(caught.value)


def test_memory_error_is_one_line() -> None:
    """Python's own has no words; its name stands for them."""
    with (
        pytest.raises(ArmError, match=r"^arm: out of memory \(MemoryError\)$"),
        Worker(runs_out, "arm") as worker,
    ):
        worker.receive()


def test_another_error_keeps_its_traceback() -> None:
    """What it is and where it was raised."""
    with (
        pytest.raises(ArmError, match=r"(?s)^arm: ValueError: seven\nTraceback.*in is_wrong"),
        Worker(is_wrong, "arm") as worker,
    ):
        worker.receive()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_killed_process_is_told_from_a_silent_one() -> None:
    """The system's own way to say that memory ran out."""
    with (
        pytest.raises(ArmError, match=r"^arm: the process ended with exit code -9, killed, as systems do when"),
        Worker(is_killed, "arm") as worker,
    ):
        worker.receive()
