"""`python -m parity adapter PATH`: draft an adapter for a fork."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from parity.arguments import output_file
from parity.errors import UsageError
from parity.streams import complain, emit

__all__ = ["add_parser", "command"]

_HELP = """\
The fork is read, never imported or run: classes and functions are recognised by official's names, by methods such as
sinkhorn_knopp_teacher, and by what their arguments are called. What could be written in full is wired, each capability
with the file and line it came from. The rest is marked `TODO[parity adapter]` with its contract, left out of the
adapter, and so reported as not run, never as passed.

A file that cannot be parsed stops nothing; it is named on stderr and in the draft.
"""

_EXAMPLES = """\
examples:
  python -m parity adapter path/to/fork                          print the draft
  python -m parity adapter path/to/fork --output adapter.py      write it
  python -m parity run --subject adapter.py                      compare what is wired

exit codes: 0 a draft was written, whatever is left to do in it; 2 nothing to read, or the file exists
"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "adapter",
        help="draft an adapter file for a fork",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="the fork's folder, or its single .py file")
    parser.add_argument("--output", type=output_file, metavar="FILE", help="write the draft there (default: stdout)")
    parser.add_argument("--force", action="store_true", help="replace FILE where it exists")


def command(arguments: argparse.Namespace) -> int:
    """Draft, write or print, and say what is wired and what is left to do.

    Raises:
        UsageError: there is nothing to read, or the file exists and `--force` was not given.
        OutputError: the file cannot be written.
    """
    from parity.draft import MARK, draft
    from parity.report.files import check_writable, write_atomically

    output: Path | None = arguments.output
    if output is not None:
        if output.exists() and not output.is_dir() and not arguments.force:
            raise UsageError(f"{output} exists; give --force to replace it, or another --output")
        check_writable(output)
    made = draft(arguments.path, output)
    for file in made.unreadable:
        complain(f"left out, could not be parsed: {file.shown}: {file.reason}")
    if output is None:
        emit(made.text)
        return 0
    write_atomically(output, made.text)
    left = (
        f"{len(made.gaps)} left to do ({', '.join(made.gaps)}): search for {MARK}"
        if made.gaps
        else "nothing left to do"
    )
    emit(f"{output}: {len(made.wired)} capabilities wired ({', '.join(made.wired)}), {left}\n")
    emit(f"next: python -m parity run --subject {output}\n")
    return 0
