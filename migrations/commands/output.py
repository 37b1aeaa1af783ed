"""Where results go: stdout, or a file that is written whole or not at all."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from migrations.errors import UsageError
from migrations.report.layout import console_of_width
from parity.report.files import check_writable, write_atomically
from parity.streams import console_for, emit

__all__ = ["check_outputs", "deliver"]


def check_outputs(*paths: Path | None) -> None:
    """Refuse files that cannot be written, before the work rather than behind it.

    Raises:
        UsageError: two are the same file.
        OutputError: one cannot be written.
    """
    given = [path for path in paths if path is not None]
    if len({path.resolve() for path in given}) < len(given):
        raise UsageError(f"two outputs name the same file, {given[0]}; give each its own")
    for path in given:
        check_writable(path)


def deliver(render: Callable[[Console], str], output: Path | None) -> None:
    """Print a result, or write it to a file, there without colours and without wrapping."""
    if output is None:
        stream = sys.stdout if sys.stdout is not None and not sys.stdout.closed else io.StringIO()
        emit(render(console_of_width(console_for(stream))))
    else:
        write_atomically(output, render(console_of_width(console_for(io.StringIO()))))
