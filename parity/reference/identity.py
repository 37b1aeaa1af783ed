"""Is this official code? Decided by git blob ids of the bytes that are later compiled.

A file whose blob id is not in official history is *modified*, and its changed lines are named against the
commit that most of the other files match.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal

from parity.errors import ReferenceSourceError
from parity.reference.manifest import (
    PYPI_VERSION,
    Blob,
    Commit,
    Manifest,
    is_training_path,
    line_hashes,
    load_manifest,
)

__all__ = ["Identity", "ModifiedFile", "identify", "modified_file", "read_files"]

_SHOWN = 8
_WIDTH = 160


@dataclass(frozen=True)
class ModifiedFile:
    """One file that is not official's.

    Attributes:
        path: e.g. `dinov2/data/masking.py`.
        kind: `changed`, or `extra`: official has no such training file.
        nearest: the commit that it was compared with, for a reader.
        lines: (line number, text) of each line of this file that the official one does not have.
        removed: number of official lines that this file does not have.
        removed_at: numbers of this file's lines before which official lines are missing without replacement.
    """

    path: str
    kind: Literal["changed", "extra"]
    nearest: str
    lines: tuple[tuple[int, str], ...] = ()
    removed: int = 0
    removed_at: tuple[int, ...] = ()

    def text(self) -> str:
        """Return the file and its changed lines in one line of a report."""
        if self.kind == "extra":
            return f"{self.path} is not a file of official training code"
        named = [f"line {number}: `{_shortened(text.strip())}`" for number, text in self.lines[:_SHOWN]]
        if len(self.lines) > _SHOWN:
            named.append(f"and {len(self.lines) - _SHOWN} more lines")
        if self.removed_at:
            places = ", ".join(map(str, self.removed_at[:_SHOWN]))
            named.append(f"official lines removed before line {places}")
        if not named:
            named.append("white space at line ends only")
        return f"{self.path} differs from {self.nearest}: {'; '.join(named)}"


@dataclass(frozen=True)
class Identity:
    """What is known about a tree of training files.

    Attributes:
        version: the commit or release in words.
        identity: `verified`, all of one commit; `mixed`, all official but of no single commit; `modified`.
        files_total: training files present.
        files_verified: of these, official ones byte for byte (line endings aside).
        commits: ids of the commits that have every file as it is here; empty unless `verified`.
        modified: the files that are not official's.
        remarks: what a reader should know besides: line endings, which files make a tree mixed.
    """

    version: str
    identity: Literal["verified", "mixed", "modified"]
    files_total: int
    files_verified: int
    commits: tuple[str, ...] = ()
    modified: tuple[ModifiedFile, ...] = ()
    remarks: tuple[str, ...] = ()


def _shortened(text: str) -> str:
    """Return a line of source at a length that a report can hold."""
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"


def read_files(root: Path) -> dict[str, bytes]:
    """Read every training file below `root/dinov2`, keyed by its POSIX path from `root`.

    Raises:
        ReferenceSourceError: a file or folder cannot be read.
    """
    try:
        return {path: _read(root / path) for path in sorted(_training_paths(root))}
    except OSError as error:
        raise ReferenceSourceError(
            f"the reference file {error.filename} cannot be read ({error.strerror}); "
            "make it readable, or give another --reference"
        ) from error


def _read(path: Path) -> bytes:
    """Read a file; a pipe or a device would be waited for without end."""
    if path.exists() and not path.is_file():
        raise ReferenceSourceError(f"the reference file {path} is not a regular file; give another --reference")
    return path.read_bytes()


def _training_paths(root: Path) -> Iterator[str]:
    """Yield the training files below `root/dinov2`."""

    def fail(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(root / "dinov2", onerror=fail):
        for name in names:
            path = (Path(folder) / name).relative_to(root).as_posix()
            if is_training_path(path):
                yield path


def identify(files: Mapping[str, bytes], manifest: Manifest | None = None) -> Identity:
    """Compare a tree of training files with official history.

    Args:
        files: content by path, as `read_files` returns it.
        manifest: official history; the one that ships with parity by default.

    Raises:
        ReferenceSourceError: files are missing without which official training code does not import.
    """
    history = manifest or load_manifest()
    missing = [path for path in history.required if path not in files]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ReferenceSourceError(
            f"the reference is incomplete: it lacks {', '.join(missing[:_SHOWN])}{more}; "
            "give --reference a complete copy of dinov2/, or `auto`"
        )
    matches, endings = _match(files, history)
    # Ties go to the newest commit: commits that changed no training file are the same code.
    counts = Counter(index for blob in matches.values() for index in blob.commits)
    nearest = max(range(len(history.commits)), key=lambda index: (counts[index], index))
    shared = [index for index, count in counts.items() if count == len(matches)]
    released = any(blob.released for blob in matches.values())
    modified = tuple(modified_file(path, files[path], history, nearest) for path in files if path not in matches)
    version = _version(history.commits[nearest], released and (not shared or nearest in shared))
    identity: Literal["verified", "mixed", "modified"] = "verified"
    remarks = [f"{path} is identical to official's but for line endings (CRLF)" for path in endings]
    if modified:
        identity, version = "modified", f"modified; nearest: {version}"
    elif not shared:
        identity, version = "mixed", f"mixed; nearest: {version}"
        remarks += _strangers(matches, history, nearest)
    commits = tuple(history.commits[index].sha for index in shared) if identity == "verified" else ()
    return Identity(version, identity, len(files), len(matches), commits, modified, tuple(remarks))


def _match(files: Mapping[str, bytes], history: Manifest) -> tuple[dict[str, Blob], list[str]]:
    """Return the official blob of each file that is one, and the paths that needed CRLF normalised."""
    matches: dict[str, Blob] = {}
    endings: list[str] = []
    for path, data in files.items():
        blob = history.blob(path, data)
        if blob is None and b"\r\n" in data:
            blob = history.blob(path, data.replace(b"\r\n", b"\n"))
            if blob is not None:
                endings.append(path)
        if blob is not None:
            matches[path] = blob
    return matches, endings


def _version(commit: Commit, released: bool) -> str:
    """Name a commit, or the release made from it."""
    return f"dinov2 {PYPI_VERSION} on PyPI = {commit} but for __version__" if released else str(commit)


def _strangers(matches: Mapping[str, Blob], history: Manifest, nearest: int) -> Iterator[str]:
    """Name the files of a mixed tree that the nearest commit does not have."""
    for path, blob in matches.items():
        if nearest not in blob.commits:
            first, last = (history.commits[pick(blob.commits)] for pick in (min, max))
            yield f"{path} is official's of {first} to {last}, not of {history.commits[nearest]}"


def modified_file(path: str, data: bytes, history: Manifest, nearest: int) -> ModifiedFile:
    """Name the lines of a file that its official counterpart does not have."""
    name = str(history.commits[nearest])
    official = history.blob_at(path, nearest)
    if official is None:
        return ModifiedFile(path, "extra", name)
    text = data.decode("utf-8", errors="replace").split("\n")
    lines: list[tuple[int, str]] = []
    removed, removed_at = 0, []
    matcher = SequenceMatcher(None, official.lines, line_hashes(data), autojunk=False)
    for operation, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if operation == "equal":
            continue
        removed += old_end - old_start
        lines += [(at + 1, text[at].rstrip()) for at in range(new_start, new_end)]
        if operation == "delete":
            removed_at.append(new_start + 1)
    return ModifiedFile(path, "changed", name, tuple(lines), removed, tuple(removed_at))
