from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any

import pytest

from bench.figures import Measured, Turn
from bench.settings import Settings
from bench.turns import Contender, in_turns, peers
from bench.worker import ArmError, Worker, time_arm

HUGE = Settings(arch="vit_parity4", batch=10**9, prototypes=16, local_crops=2)
TINY = Settings(
    arch="vit_parity4", batch=2, prototypes=16, local_crops=2, global_size=64, local_size=32, reference="pypi"
)


class Fake:
    """A worker without a process: it writes down what it is asked, and fails where it is told to.

    Args:
        log: shared by all.
        name: its own.
        fails_at: the entry of the log at which it runs out of memory.
    """

    def __init__(self, log: list[str], name: str, fails_at: str = "") -> None:
        self._log, self._name, self._fails_at, self._turns = log, name, fails_at, 0
        self._answer: dict[str, Any] = {"flops": 100}

    def _note(self, what: str) -> None:
        self._log.append(f"{self._name} {what}")
        if what == self._fails_at:
            raise ArmError(f"{self._name}: out of memory")

    def __enter__(self) -> Fake:
        self._note("open")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.append(f"{self._name} close")

    def receive(self) -> dict[str, Any]:
        """Answer as a worker does, at the start and at the end."""
        self._note("ready" if "flops" in self._answer else "peak")
        return self._answer

    def send(self, message: str) -> None:
        """Take a word; the only one is `stop`."""
        self._note(message)
        self._answer = {"peak": 7}

    def iterate(self) -> Turn:
        """Take as many seconds as there were turns."""
        self._turns += 1
        self._note(f"turn {self._turns}")
        return Turn(float(self._turns), 50.0)


def contenders(log: list[str], **fails_at: str) -> dict[str, Contender]:
    """Return three, of which some fail."""
    return {name: Contender(partial(Fake, log, name, fails_at.get(name, "")), 8) for name in "abc"}


def test_workers_take_turns() -> None:
    """One after the other they get ready; each round asks each once; all are alive from the first turn to the last."""
    log: list[str] = []
    found = in_turns(contenders(log), 2)
    assert log[:6] == ["a open", "a ready", "b open", "b ready", "c open", "c ready"]
    assert log[6:12] == ["a turn 1", "b turn 1", "c turn 1", "a turn 2", "b turn 2", "c turn 2"]
    assert sorted(log[-3:]) == ["a close", "b close", "c close"]
    assert found == dict.fromkeys("abc", Measured((Turn(1.0, 50.0), Turn(2.0, 50.0)), 8, 100, 7))


@pytest.mark.parametrize("moment", ["open", "ready", "turn 1", "turn 2", "stop", "peak"])
def test_one_that_fails_does_not_stop_the_others(moment: str) -> None:
    """Whenever it runs out of memory: it is asked no more, and the others have as many rounds as ever."""
    log: list[str] = []
    found = in_turns(contenders(log, b=moment), 2)
    assert [str(error) for error in found.values() if isinstance(error, ArmError)] == ["b: out of memory"]
    assert {name: len(one.turns) for name, one in found.items() if isinstance(one, Measured)} == {"a": 2, "c": 2}
    asked = [entry for entry in log if entry.startswith("b ") and entry != "b close"]
    assert asked[-1] == f"b {moment}"


def test_another_error_closes_all() -> None:
    """A mistake in the bench itself leaves no process behind."""
    log: list[str] = []

    def mistaken() -> Fake:
        raise KeyError("x")

    chosen = {**contenders(log), "d": Contender(mistaken, 8)}
    with pytest.raises(KeyError):
        in_turns(chosen, 1)
    assert sorted(log[-3:]) == ["a close", "b close", "c close"]


def test_nobody_is_measured_where_nobody_was_chosen() -> None:
    """No rounds, no errors."""
    assert in_turns({}, 2) == {}


def test_real_workers_are_alive_together_and_one_runs_out_of_memory() -> None:
    """A billion images beside two: torch's words for the one, times, memory and FLOPs for the other."""
    arms = {"tiny": TINY, "huge": HUGE}
    found = in_turns(
        {
            name: Contender(partial(Worker, time_arm, name, settings, "unified", "forward"), settings.batch)
            for name, settings in arms.items()
        },
        2,
    )
    assert isinstance(found["huge"], ArmError)
    assert str(found["huge"]).startswith("huge: out of memory (")
    assert isinstance(found["tiny"], Measured)
    assert len(found["tiny"].turns) == 2
    assert found["tiny"].flops > 10**6


def case(function: Callable[..., None], **params: object) -> SimpleNamespace:
    """Return a test as pytest lists it, as far as it is read."""
    return SimpleNamespace(function=function, callspec=SimpleNamespace(params=params))


def test_peers_differ_in_one_parameter_alone() -> None:
    """Arms of the same stage; not another stage's, not another function's, nothing that is no function."""

    def arm() -> None: ...
    def other() -> None: ...

    mine = case(arm, stage="step", arm="unified")
    items = [
        case(arm, stage="step", arm="three-view"),
        case(arm, stage="forward", arm="official"),
        mine,
        case(other, stage="step", arm="packed"),
        SimpleNamespace(),
        SimpleNamespace(function=other),
        case(arm, stage="step", arm="official"),
    ]
    assert peers(items, mine, "arm") == ["three-view", "unified", "official"]
