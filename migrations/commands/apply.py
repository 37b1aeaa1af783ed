"""`apply`: carry out what `plan` shows. Dry unless `--write` is given."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from migrations.options import EXIT_CODES, RAW, Commands, add_output, add_path, add_selection

if TYPE_CHECKING:
    from migrations.cli import Rules

_ABOUT = """\
Carry out migrations in the order of their dependencies. Without --write nothing is changed and the diff is shown.

Before anything is written, every result is parsed and looked at again; files are compared with what was read, and
must be committed to git. All files are replaced, or none: line ends, encoding, byte order mark and mode stay.
"""

_EXAMPLES = """\
examples:
  python -m migrations apply my_fork                          dry
  python -m migrations apply my_fork --write                  what is proven right
  python -m migrations apply my_fork --unsafe --only 6 3      two migrations, dry
  python -m migrations apply my_fork --patch changes.patch    for `git apply`, nothing else is written

"""


def add(commands: Commands) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "apply",
        help="carry out changes; dry without --write",
        description=_ABOUT,
        epilog=_EXAMPLES + EXIT_CODES,
        formatter_class=RAW,
        allow_abbrev=False,
    )
    add_path(parser)
    parser.add_argument("--write", action="store_true", help="change the files")
    add_selection(parser)
    parser.add_argument(
        "--allow-dirty", action="store_true", help="write even where git could not bring the files back"
    )
    add_output(parser)


def run(arguments: argparse.Namespace, rules: Rules) -> int:
    """Carry out the command and return the exit code."""
    from migrations.commands.carry_out import carry_out

    return carry_out(arguments, rules, write_files=arguments.write, allow_dirty=arguments.allow_dirty)
