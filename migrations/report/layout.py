"""Lines and columns on a console that collects text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["captured", "console_of_width", "labelled", "line", "patch_line"]

_UNLIMITED = 10_000


def console_of_width(console: Console) -> Console:
    """Return the console, made so wide that nothing wraps where it is no terminal: logs and `grep` want whole lines."""
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


@contextmanager
def captured(console: Console) -> Iterator[Callable[[], str]]:
    """Give a callable that returns what was printed inside, without blanks at the ends of lines."""
    text = ""
    with console.capture() as capture:
        yield lambda: text
    # rich fills rows with blanks; colour codes may stand behind them.
    text = re.sub(r"[ ]+((?:\x1b\[[0-9;]*m)*)$", r"\1", capture.get(), flags=re.MULTILINE)


def line(console: Console, text: str, style: str = "") -> None:
    """Print a sentence, wrapped at the console's width."""
    console.print(Text(text, style))


def labelled(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Print rows of a label and a text; what wraps stands below the text."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(f"  {label}", Text(text))
    console.print(table)


def patch_line(console: Console, text: str) -> None:
    """Print a line of a unified diff in its colour, never wrapped."""
    style = {"+": "green", "-": "red", "@": "cyan"}.get(text[:1], "")
    if text.startswith(("--- ", "+++ ")):
        style = "bold"
    console.print(Text(text, style), soft_wrap=True)
