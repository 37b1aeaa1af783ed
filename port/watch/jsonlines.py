"""`training_metrics.json`: one JSON object per line, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["METRICS_FILE", "JsonLines", "read_metrics"]

METRICS_FILE = "training_metrics.json"
"""Official's name (`dinov2/train/train.py:208`)."""

RESERVED = ("iteration", "nonfinite")
logger = logging.getLogger("port")


class JsonLines:
    """Appends to a file of metrics.

    A line is `{"iteration": 12, "total_loss": 9.25, …}`; floats are written so that they read back equal. JSON has no
    NaN and no infinity: these become null, and the key `nonfinite` tells which was which: `{"total_loss": "nan"}`.
    """

    def __init__(self, path: Path, resume_iteration: int) -> None:
        """Open the file, without what the run is about to do again.

        Args:
            path: the file; created where there is none.
            resume_iteration: the first iteration to come. Lines of this and later iterations go, as a killed run
                may have logged further than its last checkpoint; so does a last line that was torn. 0 empties it.

        Raises:
            OSError: the file cannot be read or written.
        """
        self.path = path
        try:
            _cut_back(path, resume_iteration)
            # Unbuffered: a line is in the file, or it is not, whenever the process dies.
            self._file = path.open("ab", buffering=0)
            self._size = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror or error}, expected to write metrics to it", str(path)
            ) from error
        self._warned = False

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append one line. Where that fails the line is lost, the first time with a warning: training goes on.

        Raises:
            ValueError: a name is `iteration` or `nonfinite`.
        """
        line = _line(iteration, values)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:]) or 0
            self._size += len(line)
        except OSError as error:
            self._undo_torn_line()
            if not self._warned:
                self._warned = True
                logger.warning(
                    "%s: %s at iteration %d; lines that cannot be written are lost, training goes on. Free some space",
                    self.path,
                    error.strerror or error,
                    iteration,
                )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _undo_torn_line(self) -> None:
        try:
            self._file.truncate(self._size)
        except OSError:
            logger.debug("%s: a torn line stays, and is skipped by readers", self.path)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, in order; None stands for values that are not finite.

    Torn lines are left out.

    Raises:
        OSError: the file cannot be read.
    """
    return [values for _, values in _parsed(Path(path).read_bytes())]


def _line(iteration: int, values: Mapping[str, float]) -> bytes:
    for name in RESERVED:
        if name in values:
            raise ValueError(f"a metric is called {name!r}, expected any other name: it is a key of every line")
    numbers = {name: float(value) for name, value in values.items()}
    record: dict[str, object] = {"iteration": int(iteration)}
    record.update({name: number if math.isfinite(number) else None for name, number in numbers.items()})
    nonfinite = {name: str(number) for name, number in numbers.items() if not math.isfinite(number)}
    if nonfinite:
        record["nonfinite"] = nonfinite
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _parsed(content: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the lines that hold an object with an iteration, as they are and parsed."""
    parsed = []
    for line in content.splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # of the decoder, or of a torn character
            continue
        if isinstance(values, dict) and isinstance(values.get("iteration"), int):
            parsed.append((line, values))
    return parsed


def _cut_back(path: Path, resume_iteration: int) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    kept = [line for line, values in _parsed(content) if 0 < resume_iteration > values["iteration"]]
    new = b"".join(line + b"\n" for line in kept)
    if new == content:
        return
    logger.info(
        "%s: %d of %d lines stay, those before iteration %d",
        path,
        len(kept),
        len(content.splitlines()),
        resume_iteration,
    )
    _replace(path, new)


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves the old content or the new."""
    # Always of the same name, so that what killed processes leave does not pile up.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
