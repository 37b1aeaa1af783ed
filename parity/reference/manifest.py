"""What official's training files looked like at every commit, without holding any of their text.

`manifest.json` lists, for each training file, the distinct git blobs in the public history with the commits
that had them, and a 24-bit hash of each line. The blob id decides whether a file is official, byte for byte;
the line hashes name the lines that a modified file changed.

The manifest is made from a clone, by `git log` and `git ls-tree` over all commits:

    python -m parity.reference.manifest CLONE/.git dinov2-0.0.1.dev2-py3-none-any.whl > manifest.json
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = [
    "PINNED_COMMIT",
    "PYPI_VERSION",
    "Blob",
    "Commit",
    "Manifest",
    "blob_id",
    "is_training_path",
    "line_hashes",
    "load_manifest",
]

PINNED_COMMIT = "b8931f7bf91576930313be2c6d6af376033b35f0"
PYPI_VERSION = "0.0.1.dev2"

_PACKAGES = ("configs", "data", "distributed", "fsdp", "layers", "logging", "loss", "models", "train", "utils")
_LINE_DIGITS = 6
_RELEASE_COMMIT = "f896929"


@dataclass(frozen=True)
class Commit:
    """One commit of the public history.

    Attributes:
        sha: the full commit id.
        date: committer date, `YYYY-MM-DD`.
    """

    sha: str
    date: str

    def __str__(self) -> str:
        return f"commit {self.sha[:7]} ({self.date})"


@dataclass(frozen=True)
class Blob:
    """One state of one file.

    Attributes:
        id: git blob id.
        commits: indices into `Manifest.commits` of the commits that had it; for a blob that only the PyPI
            wheel has, the commit that the wheel was built from.
        lines: a short hash of each line, trailing white space removed.
        released: whether only the PyPI wheel has it.
    """

    id: str
    commits: frozenset[int]
    lines: tuple[str, ...]
    released: bool = False


@dataclass(frozen=True)
class Manifest:
    """Official history: commits, oldest first, and the known blobs of each training file."""

    commits: tuple[Commit, ...]
    files: Mapping[str, tuple[Blob, ...]]

    def blob(self, path: str, data: bytes) -> Blob | None:
        """Return the official blob that `data` is, byte for byte, or None."""
        wanted = blob_id(data)
        return next((blob for blob in self.files.get(path, ()) if blob.id == wanted), None)

    def blob_at(self, path: str, commit: int) -> Blob | None:
        """Return the blob that a commit had at `path`, or None where it had no such file."""
        blobs = self.files.get(path, ())
        return next((blob for blob in blobs if commit in blob.commits and not blob.released), None)

    @property
    def required(self) -> tuple[str, ...]:
        """Files without which training code does not import; the PyPI wheel lacks `configs/train/`."""
        return tuple(path for path in self.files if not path.startswith("dinov2/configs/train/"))


def is_training_path(path: str) -> bool:
    """Return whether a path like `dinov2/loss/koleo_loss.py` is a training file that parity verifies.

    Evaluation, hub, launch and third-party folders are not: training never imports them.
    """
    if path == "dinov2/__init__.py":
        return True
    parts = path.split("/")
    return (
        len(parts) > 2
        and parts[0] == "dinov2"
        and parts[1] in _PACKAGES
        and path.endswith((".py", ".yaml"))
        and parts[1:3] != ["configs", "eval"]
        and not any(part in ("", ".", "..", "__pycache__") or "\\" in part for part in parts)
    )


def blob_id(data: bytes) -> str:
    """Return the id that git gives to a file with this content."""
    header = b"blob %d\0" % len(data)
    return hashlib.sha1(header + data, usedforsecurity=False).hexdigest()


def line_hashes(data: bytes) -> tuple[str, ...]:
    """Return a short hash of each line, trailing white space (CR included) removed."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    digests = (hashlib.sha1(line.rstrip(), usedforsecurity=False).hexdigest() for line in lines)
    return tuple(digest[:_LINE_DIGITS] for digest in digests)


@lru_cache(maxsize=1)
def load_manifest() -> Manifest:
    """Read `manifest.json`, which lies beside this file."""
    raw = json.loads((Path(__file__).parent / "manifest.json").read_text(encoding="utf-8"))
    files = {path: tuple(_blob(entry) for entry in entries) for path, entries in raw["files"].items()}
    return Manifest(tuple(Commit(sha, date) for sha, date in raw["commits"]), files)


def _blob(entry: dict[str, Any]) -> Blob:
    """Read one blob: commit ranges are inclusive, line hashes are joined into one string."""
    commits = frozenset(index for first, last in entry["commits"] for index in range(first, last + 1))
    joined: str = entry["lines"]
    lines = tuple(joined[at : at + _LINE_DIGITS] for at in range(0, len(joined), _LINE_DIGITS))
    return Blob(entry["blob"], commits, lines, bool(entry.get("released", False)))


def _ranges(indices: Iterable[int]) -> list[list[int]]:
    """Pack indices into inclusive ranges."""
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


def make(git_dir: str, wheel: str) -> dict[str, Any]:
    """Build the content of `manifest.json` from a clone and the wheel."""

    def git(*arguments: str) -> bytes:
        command = ["git", f"--git-dir={git_dir}", *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603 - git, by hand

    log = git("log", "--topo-order", "--reverse", "--format=%H %cs").decode().split("\n")
    commits = [line.split(" ") for line in log if line]
    seen: dict[str, dict[str, list[int]]] = {}
    for index, (sha, _) in enumerate(commits):
        for line in git("ls-tree", "-r", sha, "dinov2/").decode().splitlines():
            entry, path = line.split("\t")
            if is_training_path(path):
                seen.setdefault(path, {}).setdefault(entry.split()[2], []).append(index)
    files: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(seen):
        for blob, indices in seen[path].items():
            lines = "".join(line_hashes(git("cat-file", "blob", blob)))
            files.setdefault(path, []).append({"blob": blob, "commits": _ranges(indices), "lines": lines})
    release = next(index for index, (sha, _) in enumerate(commits) if sha.startswith(_RELEASE_COMMIT))
    with zipfile.ZipFile(wheel) as archive:
        for path in filter(is_training_path, archive.namelist()):
            data = archive.read(path)
            if blob_id(data) not in seen[path]:
                lines = "".join(line_hashes(data))
                released = {"blob": blob_id(data), "commits": [[release, release]], "lines": lines}
                files[path].append({**released, "released": True})
    return {"schema": 1, "commits": commits, "files": files}


if __name__ == "__main__":
    print(json.dumps(make(sys.argv[1], sys.argv[2]), separators=(",", ":")))
