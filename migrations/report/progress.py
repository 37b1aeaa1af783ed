"""How far the work has come: a bar on stderr, in a terminal, once a second has passed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from migrations.engine.survey import Advance
from parity.report.numbers import printable

__all__ = ["progress"]

_PATIENCE = 1.0
"""Seconds without a bar; most projects are done by then."""


@contextmanager
def progress() -> Iterator[Advance]:
    """Give a callable `(what, done, total)`."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    with ExitStack() as stack:
        yield _bar(stack, time.monotonic())


def _bar(stack: ExitStack, began: float) -> Advance:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=None)
    started = False

    def advance(what: str, done: int, total: int) -> None:
        nonlocal started
        if not started and time.monotonic() - began > _PATIENCE:
            stack.enter_context(bar)
            started = True
        bar.update(task, description=escape(printable(what)), completed=done, total=total)

    return advance
