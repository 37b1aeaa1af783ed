"""`explain`: what a difference is, why it matters, and what stays with a person."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from migrations.errors import UsageError
from migrations.options import RAW, Commands, one_of

if TYPE_CHECKING:
    from migrations.cli import Rules


def add(commands: Commands) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "explain",
        help="what a difference is",
        description="Explain a migration: official lines, why it matters, the algebra, before and after.",
        epilog="exit codes: 0 explained, 2 there is no such migration",
        formatter_class=RAW,
        allow_abbrev=False,
    )
    parser.add_argument("id", metavar="ID", nargs="?", help="0001 … 0007, 5 for 0005; left out: list them")


def run(arguments: argparse.Namespace, rules: Rules) -> int:
    """Carry out the command and return the exit code."""
    from migrations.report.explain_text import contents, explanation
    from parity.streams import console_for, emit

    if arguments.id is None:
        emit(contents(rules.migrations, rules.advisories))
        return 0
    known = {one.id: one for one in [*rules.migrations, *rules.advisories]}
    name = arguments.id.strip()
    one = known.get(name.zfill(4)) or known.get(name)
    if one is None:
        raise UsageError(one_of("migration", arguments.id, sorted(known)))
    text = explanation(one)
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.markdown import Markdown

        console = console_for(sys.stdout)
        with console.capture() as capture:
            console.print(Markdown(text))
        text = capture.get()
    emit(text)
    return 0
