"""Printing that can neither lose a verdict nor change an exit code."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["complain", "console_for", "emit", "substitute_unencodable"]

# One character for one, so that columns stay aligned where a stream knows only ASCII.
_PLAIN = str.maketrans("▀▄█┌┐└┘│─━·…²×–—≤≥", "^_#++++|--.~2x--<>")
_HANDLER = "parity.plain"
_COLOURS: Mapping[str, Literal["standard", "256", "truecolor", "windows"]] = {
    "standard": "standard",
    "256": "256",
    "truecolor": "truecolor",
    "windows": "windows",
}


def substitute_unencodable() -> None:
    """Let stdout and stderr print a plain character for one that their encoding lacks."""
    codecs.register_error(_HANDLER, _plain_character)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _plain_character(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(c if c.isascii() else "?" for c in missing), error.end


def console_for(stream: TextIO) -> Console:
    """Return a console that collects text as the stream would show it: its width and colours, NO_COLOR honoured.

    It writes into a buffer, for use with `Console.capture`: rich itself would meet the stream's errors, and
    ends the process with code 1 when a pipe breaks.
    """
    from rich.console import Console

    model = Console(file=stream)
    return Console(
        file=io.StringIO(),
        width=model.width,
        force_terminal=model.is_terminal,
        color_system=_COLOURS.get(model.color_system or ""),
        no_color=model.no_color,
        highlight=False,
        markup=False,
        emoji=False,
    )


def emit(text: str) -> None:
    """Write to stdout and flush; a closed pipe or a full disk there is no reason to change the exit code."""
    if sys.stdout is None or sys.stdout.closed:  # by `>&-`, or by the code under comparison
        complain("warning: stdout is closed, nothing could be printed") if text else None
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        _silence_stdout()
        complain(f"warning: the report could not be printed: {error.strerror or error}")


def _silence_stdout() -> None:
    """Point stdout at nothing, or the interpreter's own flush at exit fails and ends the process with 120."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def complain(text: str, *, one_line: bool = True) -> None:
    """Write to stderr, in one line unless told otherwise; where stderr is gone, nobody can be told."""
    with suppress(OSError, ValueError):
        print(" ".join(text.split()) if one_line else text.rstrip("\n"), file=sys.stderr, flush=True)
