"""Unified diffs, of bytes: what `git apply` takes must be in the files' own encodings and line ends."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from migrations.engine.project import Project

__all__ = ["as_patch", "between", "file_patch"]


def as_patch(contents: Mapping[str, tuple[bytes, bytes]]) -> bytes:
    """Return the patch of files by path; apply it with `git apply` or `patch -p1` in the project's root."""
    return b"".join(line for path, (old, new) in contents.items() for line in file_patch(path, old, new))


def file_patch(path: str, old: bytes, new: bytes) -> Iterator[bytes]:
    """Yield the lines of one file's patch, with their ends."""
    name = path.encode("utf-8", errors="surrogateescape")
    lines = difflib.diff_bytes(difflib.unified_diff, _lines(old), _lines(new), b"a/" + name, b"b/" + name)
    for number, line in enumerate(lines):
        if number < 2 and b" " in name:
            # A name with a blank ends at a tab, or `patch` takes what follows the blank for a date.
            yield line.replace(b"\n", b"\t\n")
        elif line.endswith(b"\n"):
            yield line
        else:
            yield line + b"\n\\ No newline at end of file\n"


def between(before: Project, after: Project) -> Iterator[str]:
    """Yield the lines of a patch of two projects for reading, without their ends."""
    for path, new in after.files.items():
        old = before.files[path]
        if old.text != new.text:
            for line in file_patch(path, old.data, new.data):
                yield line.decode().rstrip("\r\n")


def _lines(data: bytes) -> list[bytes]:
    """Split at line feeds alone, as git does."""
    lines = data.split(b"\n")
    return [*(line + b"\n" for line in lines[:-1]), *([lines[-1]] if lines[-1] else [])]
