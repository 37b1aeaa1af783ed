"""Lines, indented text and labelled columns on a console: the few shapes that the terminal report is made of."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from parity.report.numbers import printable

__all__ = ["heading", "indented", "labelled", "line"]


def line(console: Console, text: str | Text, style: str = "") -> None:
    """Print one line that only the terminal itself wraps, so that tools can read it whole."""
    console.print(Text(text, style=style) if isinstance(text, str) else text, soft_wrap=True)


def heading(console: Console, text: str) -> None:
    """Print the title of a section, set off by an empty line."""
    console.print()
    console.print(Text(printable(text), style="bold underline"))


def indented(console: Console, text: str | Text, by: int) -> None:
    """Print text that wraps at the console's width, every line indented by `by` blanks."""
    console.print(Padding(Text(text) if isinstance(text, str) else text, (0, 0, 0, by)))


def labelled(console: Console, rows: Iterable[tuple[str, str]], by: int, gap: int = 2) -> None:
    """Print labels and texts in two columns; long texts wrap inside theirs and are never cut.

    Args:
        console: where to print.
        rows: label and text; rows without a text are left out.
        by: blanks before the labels.
        gap: blanks between the columns.
    """
    grid = Table.grid(padding=(0, gap))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    shown = [(label, text) for label, text in rows if text]
    for label, text in shown:
        grid.add_row(Text(printable(label)), Text(printable(text)))
    if shown:
        console.print(Padding(grid, (0, 0, 0, by)))
