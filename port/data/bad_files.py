"""Files that could not be read: each is named once, counted, and too many of them end the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["BadFileLog", "SkippedFile"]

_NAMED = 5  # files in an error message
_logger = logging.getLogger("port")


class SkippedFile(NamedTuple):
    """A file that was left out, and why."""

    name: str
    reason: str


class BadFileLog:
    """The unreadable files of a run, in a file with one JSON object per line: `{"name": …, "reason": …}`.

    All ranks may share the file: before a rank counts a new file, it reads what the others have written. A resumed run
    goes on from what the file holds. A line that a killed run left unfinished is passed over.
    """

    def __init__(self, path: Path, n_files: int, max_share: float) -> None:
        """Read the file, if there is one; nothing is created yet.

        Args:
            path: of the JSON lines, `bad_files.jsonl` by convention.
            n_files: files in the data set.
            max_share: `data.max_bad_share`, the share of `n_files` that may be bad; 0 to 1.

        Raises:
            ValueError: `max_share` is not within 0 to 1.
            OSError: the file exists and cannot be read.
        """
        if not 0 <= max_share <= 1:
            raise ValueError(f"data.max_bad_share is {max_share}, expected a share of all files, 0 to 1")
        self.path = path
        self.n_files = n_files
        self.max_share = max_share
        self._reasons: dict[str, str] = {}
        self._read = 0  # bytes
        self._torn = False
        self._read_new_lines()

    @property
    def bad_files(self) -> tuple[SkippedFile, ...]:
        """The bad files known so far, in the order in which they were met."""
        return tuple(SkippedFile(*item) for item in self._reasons.items())

    def record(self, skipped: Iterable[SkippedFile]) -> None:
        """Log and write the files that are new, and check the share; without a file this does nothing.

        Raises:
            ValueError: more than the share of the files is bad.
            OSError: the file cannot be written.
        """
        skipped = tuple(skipped)
        if not skipped:
            return
        if any(name not in self._reasons for name, _ in skipped):
            self._read_new_lines()
        for name, reason in skipped:
            if name not in self._reasons:
                self._append(name, reason)
        self._check()

    def _append(self, name: str, reason: str) -> None:
        self._reasons[name] = reason
        line = json.dumps({"name": name, "reason": reason}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + line if self._torn else line)
        self._torn = False
        _logger.warning("skipped %s: %s (%d of %d files so far)", name, reason, len(self._reasons), self.n_files)

    def _read_new_lines(self) -> None:
        """Read from where the last reading ended; a line without an end is not one yet."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        complete = text.rfind(b"\n") + 1
        self._torn = complete < len(text)
        self._read += complete
        for line in text[:complete].splitlines():
            entry = _parsed(line)
            if entry is not None:
                self._reasons.setdefault(*entry)

    def _check(self) -> None:
        count = len(self._reasons)
        allowed = self.max_share * self.n_files
        if count <= allowed:
            return
        named = [f"  {name}: {reason}" for name, reason in list(self._reasons.items())[:_NAMED]]
        more = [f"  and {count - _NAMED} more"] if count > _NAMED else []
        raise ValueError(
            f"{count} of {self.n_files} files ({count / self.n_files:.1%}) cannot be read, expected at most "
            f"data.max_bad_share = {self.max_share:g}, which is {int(allowed)}; repair or remove them, then delete "
            f"{self.path}, or raise data.max_bad_share:\n" + "\n".join(named + more)
        )


def _parsed(line: bytes) -> SkippedFile | None:
    """Return what a line says; None where a killed process left half a line."""
    try:
        entry = json.loads(line)
        return SkippedFile(str(entry["name"]), str(entry["reason"]))
    except (ValueError, TypeError, KeyError):
        return None
