"""`plan`: what would be changed, as a diff for each migration. It writes nothing to the project."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from migrations.options import EXIT_CODES, RAW, Commands, add_output, add_path, add_selection

if TYPE_CHECKING:
    from migrations.cli import Rules

_ABOUT = """\
Print a unified diff for each migration, in the order in which they are applied: each is worked out on what the
earlier ones would leave. What is not proven right is listed with the option that it needs.
"""


def add(commands: Commands) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "plan",
        help="what would be changed, as a diff",
        description=_ABOUT,
        epilog=EXIT_CODES,
        formatter_class=RAW,
        allow_abbrev=False,
    )
    add_path(parser)
    add_selection(parser)
    add_output(parser)


def run(arguments: argparse.Namespace, rules: Rules) -> int:
    """Carry out the command and return the exit code."""
    from migrations.commands.carry_out import carry_out

    return carry_out(arguments, rules)
