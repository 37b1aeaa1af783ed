"""`python -m parity diff A.json B.json`: what changed between two runs, and whether the second is worse."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from parity.arguments import output_file
from parity.streams import console_for, emit

__all__ = ["add_parser", "command"]

_OUTPUTS = {"json": "write the difference in full as JSON", "markdown": "write it for a GitHub job summary"}

_DESCRIPTION = """\
Compare two JSON reports of `python -m parity run --json FILE`: provenance and options, checks, and every comparison.
Times are not compared.

B is worse than A where something that passed in A does not in B, whether it diverges, raises an error, is not run
or is not there; or where A was parity and B is not. What only B has is told and is no reason. Neither is equality of
bits that was lost within tolerance.
"""

_EPILOG = """\
examples:
  python -m parity diff before.json after.json
  python -m parity diff before.json after.json --markdown summary.md

exit codes:
  0  B is not worse than A
  1  B is worse
  2  a report cannot be read, or is not of schema 1
"""


def add_parser(commands: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "diff",
        help="what changed between two runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("before", metavar="A.json", type=output_file, help="the report to measure by")
    parser.add_argument("after", metavar="B.json", type=output_file, help="the report that is judged")
    for name, text in _OUTPUTS.items():
        parser.add_argument(f"--{name}", type=output_file, metavar="FILE", help=text)


def command(arguments: argparse.Namespace) -> int:
    """Compare the reports and print what differs.

    Returns:
        0 where B is not worse, 1 where it is.

    Raises:
        ReportError: a report cannot be read.
        OutputError: a file cannot be written.
        UsageError: an output would replace a report or another output.
    """
    from parity.diff.changes import compare_reports
    from parity.diff.load import load_report
    from parity.diff.render import as_json, as_markdown, as_text
    from parity.outputs import Render, requested, require_possible, write_outputs

    inputs: list[Path] = [arguments.before, arguments.after]
    outputs = requested(arguments, _OUTPUTS)
    require_possible(outputs, inputs)
    difference = compare_reports(*map(load_report, inputs))
    renderers: dict[str, Render] = {
        "json": lambda code: as_json(difference, code),
        "markdown": lambda code: as_markdown(difference, code),
    }
    failure = write_outputs(outputs, renderers, difference.exit_code)
    code = 2 if failure else difference.exit_code
    emit(as_text(difference, console_for(sys.stdout), code))
    if failure:
        raise failure
    return code
