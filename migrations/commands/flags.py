"""`flags FILE…`: where flags are defined, set and read, and which go."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from migrations.errors import RefusedError
from parity.streams import complain, emit

_EPILOG = """\
exit codes:
  0    nothing to do, or all of it written
  1    work remains: shown only, or a flag that is still read or that a person must remove
  2    could not do the job; nothing was written

With --write the files must be committed to git as they are.
Only the files given are looked at: give the parser, what reads the arguments, and every launcher and configuration.

examples:
  python -m migrations flags .
  python -m migrations flags main.py training launch.sh configs/base.yaml --write
"""


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "flags",
        help="where flags are defined, set and read, in parsers, YAML and launchers together",
        description="Show where flags are defined, set and read; remove those that nothing reads, and add the new.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", metavar="FILE", nargs="+", type=Path, help="Python, shell and YAML files, or folders")
    parser.add_argument("--write", action="store_true", help="carry it out; without, a diff is shown")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="write even where git could not bring the files back"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: text)")


def run(arguments: argparse.Namespace, rules: object = None) -> int:
    """Carry the command out and return its exit code; it needs no rules."""
    try:
        return _run(arguments)
    except (OSError, ValueError, RefusedError) as error:
        complain(f"error: {error}")
        return 2


def _run(arguments: argparse.Namespace) -> int:
    from migrations.flags.files import find_files, write_files
    from migrations.flags.report import as_json, as_text
    from migrations.flags.table import make_table

    found = find_files(arguments.paths)
    table = make_table(found)
    written = bool(arguments.write and table.texts)
    if written:
        write_files(found, table.texts, allow_dirty=arguments.allow_dirty)
    waits = [row.flag for row in table.rows if row.proposal in ("stays", "blocked")]
    remains = bool(waits) or (table.work_remains and not written)
    code = 2 if table.errors and not found.files else 1 if remains or table.errors else 0
    if arguments.format == "json":
        emit(as_json(found, table, written=sorted(table.texts) if written else [], exit_code=code))
        return code
    verdict = "nothing to do"
    if table.texts:
        verdict = f"written: {', '.join(table.texts)}" if written else "nothing was written; --write does it"
    if waits:
        verdict += f"; {', '.join(waits)}: see above" if table.texts else f"; waiting: {', '.join(waits)}"
    terminal = sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size((120, 40)).columns if terminal else 120
    emit(as_text(found, table, verdict, width, terminal))
    return code
