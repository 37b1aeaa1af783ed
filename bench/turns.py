"""Workers that are measured in turns: a machine that slows down within minutes slows all of them alike.

All are alive at once and each waits for its turn, asleep: torch's threads stop within milliseconds of an iteration. So
what one round holds of each was measured within one round's time, and ratios are taken within rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple, Protocol

from bench.figures import Measured, Turn
from bench.worker import ArmError

__all__ = ["Contender", "Runner", "in_turns", "peers"]


class Runner(Protocol):
    """What `bench.worker.Worker` offers here; any of these raises `ArmError` where the worker failed."""

    def receive(self) -> dict[str, Any]:
        """Return the next message: `flops` when it is ready, `peak` after `stop`."""

    def send(self, message: str) -> None:
        """Send a word."""

    def iterate(self) -> Turn:
        """Carry out one iteration."""


class Contender(NamedTuple):
    """What takes part.

    Attributes:
        open: starts its worker.
        images: per iteration.
    """

    open: Callable[[], AbstractContextManager[Runner]]
    images: int


def in_turns(contenders: Mapping[str, Contender], rounds: int) -> dict[str, Measured | ArmError]:
    """Open all workers, ask each for one iteration a round, and close them.

    Workers are opened one after the other, since each counts FLOPs in a whole iteration then.

    Args:
        contenders: by name.
        rounds: at least 1.

    Returns:
        What was measured by name, or the error of a worker that failed, at whatever point; the others go on without it.
    """
    workers: dict[str, Runner] = {}
    flops: dict[str, int] = {}
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    found: dict[str, Measured | ArmError] = {}

    def begin(name: str) -> None:
        workers[name] = stack.enter_context(contenders[name].open())
        flops[name] = workers[name].receive()["flops"]

    def iterate(name: str) -> None:
        turns[name].append(workers[name].iterate())

    def finish(name: str) -> None:
        workers[name].send("stop")
        peak = workers[name].receive()["peak"]
        found[name] = Measured(tuple(turns[name]), contenders[name].images, flops[name], peak)

    with ExitStack() as stack:
        for task in (begin, *[iterate] * rounds, finish):
            for name in contenders:
                if name not in found and (error := _error_of(task, name)) is not None:
                    found[name] = error
    return found


def _error_of(task: Callable[[str], None], name: str) -> ArmError | None:
    """Carry out a task and return why it failed, or None."""
    try:
        task(name)
    except ArmError as error:
        return error
    return None


def peers(items: Iterable[Any], test: Any, varying: str) -> list[Any]:
    """Return the values of a parameter over the tests that differ from `test` in it alone, its own included, in order.

    Args:
        items: the tests that pytest has selected.
        test: one of them.
        varying: name of the parameter.
    """

    def rest(item: Any) -> dict[str, Any]:
        return {key: value for key, value in item.callspec.params.items() if key != varying}

    alike = [item for item in items if getattr(item, "function", None) is test.function and rest(item) == rest(test)]
    return [item.callspec.params[varying] for item in alike]
