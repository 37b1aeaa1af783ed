"""One arm at one stage in a process of its own, driven by the benchmark one iteration at a time.

Messages are dictionaries over a pipe. The worker says how many `flops` it counted when it is ready; for each `go` it
measures the machine's ceiling, carries out an iteration and answers with both; after `stop` it says how far memory rose
over all iterations. An error is one `error` line.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, TypeVar

import torch

from bench.agreement import agree
from bench.arms import AGREEING, open_arm
from bench.figures import Turn
from bench.inputs import Subsets, make_batches, make_state
from bench.measure import Ceiling, PeakMemory, Stopwatch, flop_counter, is_out_of_memory
from bench.settings import Settings

__all__ = ["ArmError", "Worker", "check_agreement", "iterations", "time_arm"]

WARM_UPS = {"cpu": 0, "cuda": 3}
"""After the iteration in which FLOPs are counted, and which fills the optimizer's state."""
Job = Callable[..., None]
Input = TypeVar("Input")


class ArmError(Exception):
    """An arm could not be measured; the message is one line."""


def time_arm(pipe: Connection, settings: Settings, name: str, stage: str) -> None:
    """Build an arm and carry out iterations as they are asked for; runs in the worker's process."""
    torch.set_num_threads(settings.threads)
    subsets = Subsets()
    with open_arm(name, settings, make_state(settings), subsets) as arm:
        batches = make_batches(settings)
        arm.consume(iterations(pipe, settings, batches, subsets, arm.student.zero_grad), stage)


def iterations(
    pipe: Connection, settings: Settings, batches: Sequence[Input], subsets: Subsets, drop_gradients: Callable[[], None]
) -> Iterator[Input]:
    """Yield the inputs in turn; what happens between two of them is the iteration that is measured.

    Args:
        pipe: to the benchmark.
        settings: of the run.
        batches: inputs, at least one.
        subsets: told which input an iteration has.
        drop_gradients: called before each iteration, untimed.
    """
    counter = flop_counter()
    subsets.begin(0)
    with contextlib.nullcontext() if settings.compile else counter:
        yield batches[0]
    for number in range(WARM_UPS[settings.device]):
        drop_gradients()
        subsets.begin(number % len(batches))
        yield batches[number % len(batches)]
    drop_gradients()
    ceiling = Ceiling(settings.device, settings.precision, settings.clock, settings.threads)
    ceiling.measure()  # so that what the first product allocates stands below the peak
    watch, memory = Stopwatch(settings.device, settings.clock, settings.threads), PeakMemory(settings.device)
    memory.start()
    pipe.send({"flops": counter.get_total_flops()})
    number = 0
    while pipe.recv() == "go":
        drop_gradients()
        number = (number + 1) % len(batches)
        subsets.begin(number)
        reached = ceiling.measure()
        watch.start()
        yield batches[number]
        pipe.send({"seconds": watch.stop(), "ceiling": reached})
    pipe.send({"peak": memory.rise()})


def check_agreement(pipe: Connection, settings: Settings, arms: Sequence[str] = AGREEING) -> None:
    """Say which arms disagree, as lines; runs in the worker's process."""
    torch.set_num_threads(settings.threads)
    pipe.send({"disagreements": [str(one) for one in agree(settings, arms)]})


def _main(pipe: Connection, job: Job, what: str, arguments: tuple[Any, ...]) -> None:
    """Run a job, and tell what ended it: memory in one line, anything else with its traceback."""
    logging.disable(logging.INFO)  # official training logs every ten iterations
    try:
        job(pipe, *arguments)
    except Exception as error:
        if is_out_of_memory(error):
            reason = str(error).strip().splitlines() or [type(error).__name__]
            pipe.send({"error": f"{what}: out of memory ({reason[0][:200]})"})
        else:
            pipe.send({"error": f"{what}: {type(error).__name__}: {error}", "traceback": traceback.format_exc()})


class Worker:
    """The benchmark's end of the pipe; a context manager that ends the process.

    Args:
        job: `time_arm`, `check_agreement`, or another function of this kind.
        what: the job in words, for errors.
        arguments: of the job, after the pipe.
    """

    def __init__(self, job: Job, what: str, *arguments: Any) -> None:
        # A fresh interpreter: a fork would begin with this one's memory, and CUDA does not survive it.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._what = what
        self._process = context.Process(target=_main, args=(theirs, job, what, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.join()
        self._pipe.close()

    def send(self, message: str) -> None:
        """Send a word, `go` or `stop`; one that finds no reader is answered by `receive`."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(message)

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            ArmError: the worker reports an error, or is no more.
        """
        try:
            message: dict[str, Any] = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            why = "killed, as systems do when memory runs out" if code == -9 else "without a word"
            raise ArmError(f"{self._what}: the process ended with exit code {code}, {why}") from None
        if "error" in message:
            details = f"\n{message['traceback']}" if "traceback" in message else ""
            raise ArmError(message["error"] + details)
        return message

    def iterate(self) -> Turn:
        """Carry out one iteration and return its seconds and the ceiling beside it."""
        self.send("go")
        return Turn(**self.receive())
