"""`python -m parity quirks`: what official code really does, and evidence that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.arguments import nearest, output_file, reference_source
from parity.errors import UsageError
from parity.quirks import QUIRKS, Quirk
from parity.streams import complain, emit

__all__ = ["add_parser", "command"]

_EPILOG = """\
evidence:
  measured       official code is executed, as parity loads it, substitutes included
  source         the syntax tree of official code is searched
  read           by a person; the page says why it cannot be executed here

port:
  official       as official by default; the switch corrects it
  corrected      by default; the switch, where there is one, leads back to official
  documented     as official, or port has no such part; nothing to choose

examples:
  python -m parity quirks                                the table, at once
  python -m parity quirks --verify                       run the evidence, some seconds
  python -m parity quirks Q1 Q33 --verify                of two
  python -m parity quirks --verify --reference path/to/dinov2 --allow-modified-reference
                                                         what a newer official commit has mended
  python -m parity explain Q1                            the whole of one

exit codes:
  0    the table was printed; with --verify: all evidence that was run is confirmed
  1    with --verify: at least one quirk is no longer so
  2    an error, or nothing was run
  130  interrupted
"""


def add_parser(commands: Any) -> None:
    """Add the command's options to the command line's parsers."""
    parser = commands.add_parser(
        "quirks",
        help="what official code really does, with evidence that runs it",
        description="List the quirks of official code, or run the evidence for them on the reference.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("ids", metavar="ID", nargs="*", help="quirks, Q1 …; all where none is named")
    parser.add_argument("--verify", action="store_true", help="run the evidence on the reference")
    parser.add_argument(
        "--reference", type=reference_source, metavar="SOURCE", help="official code: auto, github, pypi or a folder"
    )
    parser.add_argument(
        "--allow-modified-reference", action="store_true", help="run code that is not official's, and say so"
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the same as JSON, schema 1")


def command(arguments: argparse.Namespace) -> int:
    """Print the table, or run the evidence, and return the exit code.

    Raises:
        UsageError: an id is not known.
        ReferenceSourceError: the reference cannot be had, or is modified and that is not allowed.
        OutputError: the JSON file cannot be written.
    """
    quirks = chosen(arguments.ids)
    if arguments.json is not None:
        from parity.report.files import check_writable, write_atomically

        check_writable(arguments.json)
    if arguments.verify:
        reference = arguments.reference or "auto"
        return _verified(quirks, reference, arguments.allow_modified_reference, arguments.json)
    if arguments.reference or arguments.allow_modified_reference:
        complain("note: nothing of the reference is run without --verify")
    from parity.quirks.table import as_json, plain_table

    if arguments.json is not None:
        write_atomically(arguments.json, as_json(quirks))
    emit(plain_table(quirks))
    return 0


def chosen(ids: Sequence[str]) -> tuple[Quirk, ...]:
    """Return the quirks of the given ids, in the registry's order; all of them where none is given.

    Raises:
        UsageError: an id is not known; the message names the nearest one.
    """
    known = {quirk.id.lower(): quirk for quirk in QUIRKS}
    for given in ids:
        if given.strip().lower() not in known:
            hint = nearest(given, [quirk.id for quirk in QUIRKS])
            raise UsageError(f"unknown quirk {given!r}, expected {QUIRKS[0].id} … {QUIRKS[-1].id}{hint}")
    wanted = {given.strip().lower() for given in ids} or set(known)
    return tuple(quirk for quirk in QUIRKS if quirk.id.lower() in wanted)


def _verified(quirks: Sequence[Quirk], source: str, allow_modified: bool, json_file: Path | None) -> int:
    from parity.quirks.table import as_json, verdict_table
    from parity.quirks.verify import exit_code, verify
    from parity.reference import open_reference
    from parity.report.files import write_atomically
    from parity.report.progress import progress
    from parity.report.provenance import provenance

    with open_reference(source, allow_modified=allow_modified) as reference, progress() as advance:
        verdicts = verify(reference, quirks, advance)
    if json_file is not None:
        write_atomically(json_file, as_json(quirks, verdicts, reference.info))
    notes = "".join(f"NOTE: {note}\n" for note in reference.info.notes)
    emit(f"{provenance(reference.info)}\n{notes}\n{verdict_table(verdicts)}")
    return exit_code(verdicts)
