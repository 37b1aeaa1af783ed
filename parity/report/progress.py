"""How far a run has come, on stderr: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from parity.report.numbers import printable

__all__ = ["SECONDS_BETWEEN_LINES", "progress"]

SECONDS_BETWEEN_LINES = 15.0
"""A log gets at most one line in this time."""

Advance = Callable[[str, int, int], None]


@contextmanager
def progress() -> Iterator[Advance]:
    """Give a callable `(check, done, total)` that shows the check about to run."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield _lines()
        return
    with _bar() as advance:
        yield advance


def _lines() -> Advance:
    last = time.monotonic()

    def advance(check: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        # Where Python has no stderr, print(file=None) would write to stdout, which is the report's.
        if sys.stderr is None or now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        # A log that cannot be written is no reason to lose the run.
        with suppress(OSError, ValueError):
            print(f"{done} of {total} checks done, now: {printable(check)}", file=sys.stderr, flush=True)

    return advance


@contextmanager
def _bar() -> Iterator[Advance]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def advance(check: str, done: int, total: int) -> None:
            bar.update(task, description=escape(printable(check)), completed=done, total=total)

        yield advance
