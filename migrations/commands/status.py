"""`status`: where a project stands. It reads, and writes nothing but its own report."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from migrations.options import EXIT_CODES, RAW, Commands, add_output, add_path

if TYPE_CHECKING:
    from migrations.cli import Rules

_ABOUT = """\
Print a line for each of the seven documented differences: how the project stands (diverged, partial, unknown,
suppressed, aligned, not-applicable), how it can be rewritten, where, and what was counted or read there.
Nothing is imported or executed, and nothing is written.
"""


def add(commands: Commands) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "status",
        help="where a project stands",
        description=_ABOUT,
        epilog=EXIT_CODES,
        formatter_class=RAW,
        allow_abbrev=False,
    )
    add_path(parser)
    parser.add_argument("--advisory", action="store_true", help="also report what else parts it from official code")
    add_output(parser)


def run(arguments: argparse.Namespace, rules: Rules) -> int:
    """Carry out the command and return the exit code."""
    from migrations.commands.output import check_outputs, deliver
    from migrations.engine.discovery import discover
    from migrations.engine.survey import survey
    from migrations.report.json_report import status_json
    from migrations.report.progress import progress
    from migrations.report.sarif import sarif
    from migrations.report.status_text import status_text

    began = time.monotonic()
    check_outputs(arguments.output)
    with progress() as advance:
        tree = discover(arguments.path)
        advisories = rules.advisories if arguments.advisory else ()
        found = survey(tree, rules.migrations, advisories, advance, began)
    if arguments.format == "json":
        deliver(lambda console: status_json(found), arguments.output)
    elif arguments.format == "sarif":
        results = [*found.results, *found.advisory]
        text = sarif(results, tree.project, tree.root, found.remarks, found.exit_code)
        deliver(lambda console: text, arguments.output)
    else:
        deliver(lambda console: status_text(found, console), arguments.output)
    return found.exit_code
