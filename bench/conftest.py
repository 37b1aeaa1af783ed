"""Options of `pytest bench`, and what its benchmarks share."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest
import torch

from bench.figures import Measured
from bench.report import markdown
from bench.settings import OPTIONS, Settings, from_options
from bench.turns import Contender, in_turns, peers
from bench.worker import ArmError, Worker, check_agreement
from parity.errors import ReferenceSourceError
from parity.reference import Reference, open_reference


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--bench-…`; what is not given has the device's default."""
    group = parser.getgroup("bench", "what `pytest bench` measures")
    for name, details in OPTIONS.items():
        group.addoption(f"--bench-{name}", default=None, **details)


def settings_of(config: pytest.Config) -> Settings:
    """Return the run's settings.

    Raises:
        pytest.UsageError: an option is not possible on this machine.
    """
    options = {name.replace("-", "_"): config.getoption(f"--bench-{name}") for name in OPTIONS}
    try:
        return from_options(options)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse impossible options before anything is collected; choose the clock, and columns that fit on a line."""
    chosen = settings_of(config)
    if chosen.clock == "cpu" and chosen.device == "cpu":
        # What runs in this process is timed like the workers: on a busy machine the wall's clock times the others.
        config.option.benchmark_timer = "time.process_time"
    if not config.getoption("benchmark_columns", True):
        config.option.benchmark_columns = ["min", "median", "max", "rounds"]


def pytest_report_header(config: pytest.Config) -> str:
    """Say what is measured, and that a CPU measures smaller sizes."""
    return f"bench: {settings_of(config).header()}"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show rates, memory and ratios, which pytest-benchmark's own table has no columns for."""
    if RECORDED:
        machine = {"machine": platform.machine()}
        run = {"benchmarks": RECORDED, "bench": settings_of(config).header(), "machine_info": machine}
        terminalreporter.section("bench")
        terminalreporter.write(markdown(run))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Keep the line that says what was measured with the numbers."""
    output_json["bench"] = settings_of(config).header()


class ReportedSeconds:
    """A clock that moves by what a worker reports, so that pytest-benchmark records the worker's own timing."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        """Return the sum of all reported seconds."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Add what an iteration took."""
        self._seconds += seconds


CLOCK = ReportedSeconds()


RECORDED: list[dict[str, Any]] = []
"""What this session measured, in the form of pytest-benchmark's JSON."""


@pytest.fixture(autouse=True)
def recorded(benchmark: Any) -> Iterator[None]:
    """Keep what a benchmark measured for the summary."""
    yield
    if benchmark.stats is not None and "kind" in benchmark.extra_info:
        stats = benchmark.stats.stats
        kept = {"min": stats.min, "median": stats.median}
        RECORDED.append({"extra_info": benchmark.extra_info, "stats": kept})


@pytest.fixture(scope="session")
def settings(request: pytest.FixtureRequest) -> Settings:
    """The run's settings."""
    return settings_of(request.config)


@pytest.fixture(scope="session")
def agreement(settings: Settings) -> None:
    """Fail, before anything is timed, where arms compute different numbers."""
    try:
        with Worker(check_agreement, "check that arms agree", settings) as worker:
            lines = worker.receive()["disagreements"]
    except ArmError as error:
        pytest.fail(str(error), pytrace=False)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


IN_TURNS: dict[tuple[Any, ...], dict[Any, Measured | ArmError]] = {}
"""What was measured together in this session, by the test function and the parameters that all of them share."""
Measure = Callable[[str, Callable[[Any], Contender | None]], dict[Any, Measured]]


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: Any, settings: Settings) -> Measure:
    """A function that measures this test in turns with its peers; `benchmark` keeps the times of this one."""

    def run(varying: str, contender: Callable[[Any], Contender | None]) -> dict[Any, Measured]:
        """Return what was measured of this test and of its peers that did not fail, by their parameter.

        The first of them that runs measures all that were selected. Memory that runs out, or any other error, fails
        the benchmark of that worker with one line, and no other.

        Args:
            varying: the parameter in which the peers differ.
            contender: called with its value; None for one that cannot run here.
        """
        shared = {key: value for key, value in request.node.callspec.params.items() if key != varying}
        group = (request.node.function, *shared.items())
        if group not in IN_TURNS:
            chosen = {value: contender(value) for value in peers(request.session.items, request.node, varying)}
            able = {value: one for value, one in chosen.items() if one is not None}
            IN_TURNS[group] = in_turns(able, settings.rounds)
        mine = IN_TURNS[group][request.node.callspec.params[varying]]
        if isinstance(mine, ArmError):
            pytest.fail(str(mine), pytrace=False)
        seconds = cycle(turn.seconds for turn in mine.turns)
        benchmark.pedantic(lambda: CLOCK.advance(next(seconds)), rounds=len(mine.turns))
        return {value: one for value, one in IN_TURNS[group].items() if isinstance(one, Measured)}

    return run


@pytest.fixture(scope="module")
def official(settings: Settings) -> Iterator[Reference]:
    """Official code, for the micro-benchmarks of this process."""
    try:
        with open_reference(settings.reference) as reference:
            torch.set_num_threads(settings.threads)
            yield reference
    except ReferenceSourceError as error:
        pytest.skip(f"official code cannot be had: {error}")
