"""Where log lines go: stderr, above the progress bar, and a file per rank."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["log_to_file", "log_to_stderr"]

logger = logging.getLogger("port")


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the moment: a progress bar replaces it to keep lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; a closed stderr stops no training."""
        stream = sys.stderr
        if stream is None:
            return
        try:
            stream.write(self.format(record) + "\n")
            stream.flush()
        except (OSError, ValueError):
            return


@contextmanager
def log_to_stderr(rank: int) -> Iterator[None]:
    """Show what happens; ranks above 0 show warnings only."""
    handler = _Stderr(logging.INFO if rank == 0 else logging.WARNING)
    handler.setFormatter(_Short(f"rank {rank}: " if rank else ""))
    with _added(handler):
        yield


@contextmanager
def log_to_file(output: Path, rank: int) -> Iterator[None]:
    """Append everything to `OUTPUT/logs/log.txt`, ranks above 0 to `log.txt.rankN` (`dinov2/logging/__init__.py:80`).

    Raises:
        OSError: the file cannot be written.
    """
    folder = output / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("log.txt" if rank == 0 else f"log.txt.rank{rank}")
    # A file's name may be any bytes, and a line that names it must not be lost.
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(module)s:%(lineno)d] %(message)s"))
    with _added(handler):
        try:
            yield
        finally:
            handler.close()


class _Short(logging.Formatter):
    """The message alone; warnings and errors say that they are."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{self.prefix}{level}{record.getMessage()}"


@contextmanager
def _added(handler: logging.Handler) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
