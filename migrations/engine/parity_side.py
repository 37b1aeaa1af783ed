"""What the process of one side runs: parity, while noting which files of the other side are executed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Run parity's command line.

    Args:
        arguments: the other side's folder, the file for the names of its files that were executed, parity's arguments.
    """
    from parity.cli import main as parity

    other, notes, *rest = arguments
    prefix = os.path.realpath(other) + os.sep
    # A virtual environment inside of the project, or this project itself, is no part of it.
    shared = tuple(os.path.realpath(place) + os.sep for place in (sys.prefix, Path(__file__).parents[2]))
    shared = tuple(place for place in shared if place.startswith(prefix))
    executed: set[str] = set()

    def watch(event: str, values: tuple[object, ...]) -> None:
        if event == "exec" and values and isinstance(code := values[0], CodeType):
            file = "" if code.co_filename.startswith("<") else os.path.realpath(code.co_filename)
            if file.startswith(prefix) and not (shared and file.startswith(shared)):
                executed.add(file)

    sys.addaudithook(watch)
    code = parity(rest)
    Path(notes).write_text(json.dumps(sorted(executed)), encoding="utf-8")
    return code
