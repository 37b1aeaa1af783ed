"""Checkpoint folders on disk: written whole or not at all, and checked byte by byte before they are read.

A checkpoint is a folder `step_000000012`. It is written under another name, with a manifest of every file's size
and SHA-256 last, and renamed once all of it is on the disk. What a killed process leaves behind never bears a
checkpoint's name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

__all__ = [
    "MANIFEST",
    "TEMPORARY_PREFIX",
    "FileEntry",
    "checkpoint_name",
    "describe_file",
    "describe_files",
    "find_checkpoints",
    "find_damage",
    "publish",
    "remove",
    "remove_leftovers",
    "write_durably",
    "write_manifest",
]

logger = logging.getLogger("port")

MANIFEST = "manifest.json"
TEMPORARY_PREFIX = ".tmp-"
# A folder that a new one of the same step replaces bears the second name for a moment.
NAME = re.compile(r"step_(\d{9,})(\.replaced)?")
HASHING_THREADS = 8


class FileEntry(TypedDict):
    """What the manifest says of a file: its size in bytes, and the SHA-256 of its content in hexadecimal."""

    size: int
    sha256: str


def checkpoint_name(iteration: int) -> str:
    """Return the folder's name for the state before an iteration."""
    return f"step_{iteration:09d}"


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, newest first; none where there is no folder."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if path.is_dir() and (match := NAME.fullmatch(path.name))]
    found.sort(key=lambda pair: (-int(pair[0][1]), pair[0][2] is not None))
    return [path for _, path in found]


def describe_file(path: Path) -> FileEntry:
    """Return a file's size and hash, from what reading it gives."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return {"size": size, "sha256": digest.hexdigest()}


def describe_files(paths: Iterable[Path]) -> dict[str, FileEntry]:
    """Return sizes and hashes by file name; several files are read at once."""
    files = list(paths)
    with ThreadPoolExecutor(max_workers=HASHING_THREADS) as pool:
        return dict(zip((path.name for path in files), pool.map(describe_file, files), strict=True))


def write_durably(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_manifest(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Write the manifest of a checkpoint, which makes it complete."""
    write_durably(folder / MANIFEST, json.dumps({"files": files}, indent=1, sort_keys=True).encode())


def find_damage(folder: Path) -> str | None:
    """Compare a checkpoint with its manifest; return what is wrong, or None."""
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
        for name, (size, _) in expected.items():
            actual = (folder / name).stat().st_size
            if actual != size:
                return f"{name} has {actual} bytes, expected {size}"
        described = describe_files(folder / name for name in expected)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"a file cannot be read: {error}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is not valid: {error!r}"
    for name, (_, sha256) in expected.items():
        if described[name]["sha256"] != sha256:
            return f"{name} does not have the content that was written: its SHA-256 differs from the manifest's"
    return None if expected else f"{MANIFEST} names no file"


def publish(temporary: Path, target: Path) -> None:
    """Give a complete folder its name, once it is on the disk.

    A folder that has the name already gives way: a sound one is removed once it is replaced, a damaged one is
    renamed to `NAME.damaged` and stays.
    """
    _sync_folder(temporary)
    replaced = target.with_name(f"{target.name}.replaced")
    if target.exists():
        sound = find_damage(target) is None
        if sound and replaced.exists():
            remove(replaced)
        target.rename(replaced if sound else _unused_name(f"{target}.damaged"))
    temporary.rename(target)
    _sync_folder(target.parent)
    if replaced.exists():
        remove(replaced)


def remove(folder: Path) -> None:
    """Remove a checkpoint, which loses its name first, so that half of it is never taken for one."""
    doomed = _unused_name(str(folder.with_name(f"{TEMPORARY_PREFIX}removed-{folder.name}")))
    try:
        folder.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        logger.warning("the old checkpoint %s could not be removed: %s", folder, error)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left; a folder of checkpoints belongs to one run at a time."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _unused_name(name: str) -> Path:
    path, number = Path(name), 1
    while path.exists():
        number += 1
        path = Path(f"{name}-{number}")
    return path


def _sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync files only
            raise
    finally:
        os.close(descriptor)
