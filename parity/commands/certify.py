"""`python -m parity certify PATH`: which of a fork's files are official's, and of which commit."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.arguments import output_file, reference_source
from parity.streams import complain, emit

if TYPE_CHECKING:
    from parity.certificate import Certificate, FileState

__all__ = ["add_parser", "as_json", "as_text", "command"]

_HELP = """\
Say file by file what a fork has of official's training code: byte-identical to which commit, identical but for line
endings, for the package's name in imports, or for comments and formatting, different with the first lines that differ,
missing, or extra. PATH may be the repository, the package's folder, or a fork that renamed or moved it: files are
matched by content anywhere in the tree, then by their place and name, then by the lines that they share. Nothing of the
fork is imported. Whether a difference is one of formatting is decided against the official text at hand (--reference),
docstrings told apart.
"""

_EXIT = """\
exit codes:
  0    every training file is official's and of one commit, formatting aside
  1    a file differs, is missing or is extra, or the files are of different commits
  2    no official file was found, or the tree cannot be read
"""

_TITLES = {
    "identical": "byte-identical",
    "line endings": "identical but for line endings",
    "package name": "identical but for the package's name",
    "formatting": "identical but for comments and formatting",
    "differs": "different",
    "missing": "missing",
    "extra": "extra",
}


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "certify",
        help="which files of a fork are official's, and of which commit",
        description=_HELP,
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="a repository, a package, or a fork that moved it")
    parser.add_argument(
        "--reference",
        type=reference_source,
        metavar="SOURCE",
        help="official text at hand: auto, github, pypi or a folder (default: auto)",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the same as JSON, schema 1")


def command(arguments: argparse.Namespace) -> int:
    """Certify, print, and write the JSON file.

    Raises:
        UsageError: the tree cannot be read.
        OutputError: the file cannot be written.
    """
    from parity.certificate import read_tree
    from parity.certify import certify
    from parity.report.files import check_writable, write_atomically

    if arguments.json is not None:
        check_writable(arguments.json)
    read_tree(arguments.path)  # before anything is fetched for it
    texts, whose = _texts(arguments.reference or "auto")
    made = certify(arguments.path, texts, whose)
    if arguments.json is not None:
        write_atomically(arguments.json, as_json(made))
    emit(as_text(made))
    return made.exit_code


def _texts(requested: str) -> tuple[dict[str, bytes], str]:
    """Return official files at hand; without any, formatting cannot be told from code, and the report says so."""
    from parity.errors import ReferenceSourceError
    from parity.reference.source import resolve

    try:
        source = resolve(requested)
    except ReferenceSourceError as error:
        if requested != "auto":
            raise
        complain(f"note: no official text is at hand, so a file in other formatting counts as different: {error}")
        return {}, ""
    return dict(source.files), source.identity.version


def as_json(made: Certificate) -> str:
    """Return a certificate as a JSON document that ends in a newline."""
    document = {
        "schema": 1,
        "path": str(made.root),
        "package": made.package,
        "nearest": made.nearest,
        "one_commit": made.one_commit,
        "compared_with": made.compared_with,
        "counts": {state: made.counts[state] for state in _TITLES},
        "other_files": made.others,
        "files": [asdict(file) for file in made.files],
        "exit_code": made.exit_code,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def as_text(made: Certificate) -> str:
    """Return a certificate as text: the counts, every file that is not byte-identical, and the verdict."""
    matched = sum(bool(file.official and file.path) for file in made.files)
    lines = [f"{made.root}: official's package is {made.package}; most files are of {made.nearest}"]
    if made.compared_with:
        lines.append(f"formatting decided against {made.compared_with}")
    for state, title in _TITLES.items():
        files = [file for file in made.files if file.state == state]
        if files:
            lines += ["", f"{title} ({len(files)}):", *(f"  {_line(file)}" for file in files)]
    if made.others:
        lines += ["", f"{made.others} other Python and YAML files are none of official's training code: not judged"]
    return "\n".join([*lines, "", _verdict(made, matched), ""])


def _line(file: FileState) -> str:
    if not file.path:
        return file.official
    moved = f" = {file.official}" if file.official and not file.path.endswith(file.official) else ""
    since = f"  {file.since}" if file.since else ""
    until = f" to {file.until}" if file.until and file.until != file.since else ""
    return f"{file.path}{moved}{since}{until}{'  ' + file.note if file.note else ''}"


def _verdict(made: Certificate, matched: int) -> str:
    code = made.exit_code
    if code == 2:
        return "NO VERDICT: no file of official's training code was found · exit 2"
    told = ", ".join(f"{made.counts[state]} {title}" for state, title in _TITLES.items() if made.counts[state])
    mixed = "" if made.one_commit else "; files of different commits"
    word = "OFFICIAL" if code == 0 else "DIFFERENT"
    return f"{word}: {matched} official files: {told}{mixed} · exit {code}"
