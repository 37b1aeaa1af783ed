"""Values that the command line accepts, and what to say about the ones that it does not."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from parity.errors import UsageError

__all__ = [
    "FAMILIES",
    "LEVELS",
    "SOURCES",
    "SUBJECTS",
    "families",
    "known_command",
    "level",
    "nearest",
    "output_file",
    "positive",
    "reference_source",
    "subject_name",
    "unknown_arguments",
]

FAMILIES = (
    "files",
    "masks",
    "collate",
    "augment",
    "losses",
    "prototype",
    "schedules",
    "param_groups",
    "modules",
    "gradients",
    "trajectory",
    "checkpoint",
    "distributed",
)
LEVELS = ("L0", "L1", "L2", "L3", "L4", "L5")
SOURCES = ("auto", "github", "pypi")
SUBJECTS = ("port", "legacy", "document")

_OPTIONS = {
    "run": (
        "--reference",
        "--allow-modified-reference",
        "--subject",
        "--recipe",
        "--level",
        "--only",
        "--seeds",
        "--quick",
        "--waivers",
        "--json",
        "--markdown",
        "--junit",
        "--html",
        "--github",
        "--no-github",
        "--help",
    ),
    "diff": ("--json", "--markdown", "--help"),
    "quirks": ("--verify", "--reference", "--allow-modified-reference", "--json", "--help"),
    "doctor": ("--reference", "--allow-modified-reference", "--help"),
    "adapter": ("--output", "--force", "--help"),
    "certify": ("--reference", "--json", "--help"),
}


def nearest(given: str, known: Sequence[str]) -> str:
    """Return `; did you mean 'X'?` for the nearest known name, or nothing where none is near."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""


def _one_of(kind: str, given: str, known: Sequence[str], also: str = "") -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(
        f"unknown {kind} {given!r}, expected {', '.join(known)}{also}{nearest(given, known)}"
    )


def known_command(given: str, known: Sequence[str]) -> None:
    """Refuse a command that does not exist; options pass, argparse knows them better.

    Raises:
        UsageError: `given` is neither a command nor an option.
    """
    if not given.startswith("-") and given not in known:
        raise UsageError(f"unknown command {given!r}, expected one of {', '.join(known)}{nearest(given, known)}")


def unknown_arguments(unknown: Sequence[str], command: str) -> str:
    """Return what is wrong with arguments that no option takes."""
    first = unknown[0].split("=")[0]
    hint = nearest(first, _OPTIONS.get(command, ("--help",)))
    return f"unknown argument {first!r}{hint}; see `python -m parity {command} --help`"


def level(given: str) -> str:
    """Return the level, upper case."""
    if given.upper() not in LEVELS:
        raise _one_of("level", given, LEVELS)
    return given.upper()


def families(given: str) -> list[str]:
    """Return the families of a comma-separated list."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"no family named, expected some of {', '.join(FAMILIES)}")
    for name in names:
        if name not in FAMILIES:
            raise _one_of("family", name, FAMILIES)
    return names


def positive(given: str) -> int:
    """Return a whole number of at least 1."""
    if not re.fullmatch(r"\+?[0-9]{1,9}", given) or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number of at least 1")
    return int(given)


def reference_source(given: str) -> str:
    """Return a source's name, or a folder that exists."""
    if given not in SOURCES and not Path(given).expanduser().is_dir():
        raise _one_of("reference", given, SOURCES, " or a folder that exists")
    return given


def subject_name(given: str) -> str:
    """Return a subject's name, an adapter file that exists, or MODULE:ATTR."""
    if given in SUBJECTS or re.fullmatch(r"[\w.]+:[\w.]+", given):
        return given
    if given.endswith(".py") and Path(given).is_file():
        return given
    if given.endswith(".py"):
        raise argparse.ArgumentTypeError(f"the adapter file {given!r} does not exist")
    raise _one_of("subject", given, SUBJECTS, ", FILE.py or MODULE:ATTR")


def output_file(given: str) -> Path:
    """Return the path of a report."""
    if not given.strip():
        raise argparse.ArgumentTypeError("the name of the file is empty")
    return Path(given)
