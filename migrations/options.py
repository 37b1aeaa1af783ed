"""The parser of the command line, and the options that commands share."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from migrations.errors import UsageError

__all__ = [
    "EXIT_CODES",
    "RAW",
    "Commands",
    "add_output",
    "add_path",
    "add_selection",
    "build_parser",
    "one_of",
    "parse",
]

RAW = argparse.RawDescriptionHelpFormatter

EXIT_CODES = """\
exit codes, the same for every format:
  0    aligned: every difference is settled
  1    work remains
  2    the job could not be done; nothing was written
  130  interrupted
"""

_EXAMPLES = """\
examples:
  python -m migrations status my_fork                     where does it stand?
  python -m migrations plan my_fork                       what would be changed, as a diff
  python -m migrations apply my_fork --write              the changes that are proven right
  python -m migrations apply my_fork --unsafe --write     those that rest on named assumptions too
  python -m migrations explain 0005                       what a difference is and how to keep your own way
"""


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that every error leaves through one door."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def build_parser(commands: dict[str, ModuleType]) -> argparse.ArgumentParser:
    """Return the parser of some commands; it raises `UsageError` where argparse would exit."""
    parser = _Parser(
        prog="python -m migrations",
        description="Find, rewrite and explain the seven documented differences of a DINOv2 fork to official code.",
        epilog=f"{_EXAMPLES}\n{EXIT_CODES}",
        formatter_class=RAW,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    below = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in commands.values():
        command.add(below)
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str], commands: dict[str, ModuleType]) -> argparse.Namespace:
    """Return the arguments.

    Raises:
        UsageError: a command or an option is not known, or a value is not usable.
        SystemExit: after `--help` or `--version`.
    """
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise UsageError(one_of("command", argv[0], list(commands)))
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        below = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        options = sorted(below.choices[arguments.command]._option_string_actions)
        name = unknown[0].split("=")[0]
        raise UsageError(
            f"unknown argument {name!r}{_nearest(name, options)}; see `python -m migrations {arguments.command} --help`"
        )
    return arguments


def one_of(kind: str, given: str, known: list[str]) -> str:
    """Return what is wrong with a name that is not among the known ones."""
    return f"unknown {kind} {given!r}, expected one of {', '.join(known)}{_nearest(given, known)}"


def add_path(parser: argparse.ArgumentParser) -> None:
    """Add the path of the project."""
    parser.add_argument("path", metavar="PATH", help="the folder that holds your training code, or one Python file")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the choice of format and of the file that the result goes to."""
    parser.add_argument("--format", choices=("text", "json", "sarif"), default="text", help="default: text")
    parser.add_argument("--output", type=_file, metavar="FILE", help="write the result there instead of to stdout")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add which migrations and which levels of rewriting are meant."""
    parser.add_argument("--only", action="extend", nargs="+", metavar="ID", default=[], help="these migrations alone")
    parser.add_argument("--unsafe", action="store_true", help="also rewrites that rest on assumptions, which are named")
    parser.add_argument(
        "--skeleton", action="store_true", help="also rewrites with holes, marked `# TODO[parity NNNN]`, to be filled"
    )
    parser.add_argument("--patch", type=_file, metavar="FILE", help="write the diff there, for `git apply`")


def _file(given: str) -> Path:
    if not given.strip():
        raise argparse.ArgumentTypeError("the name of the file is empty")
    return Path(given)


def _nearest(given: str, known: list[str]) -> str:
    found = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def _version() -> str:
    try:
        return f"dinov2-parity {importlib.metadata.version('dinov2-parity')}"
    except importlib.metadata.PackageNotFoundError:
        return "dinov2-parity (not installed)"


Commands = Any
"""What `add_subparsers` returns; argparse has no public name for it."""
