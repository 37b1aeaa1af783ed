"""Where verified copies of official code are kept between runs."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["cache_folder", "store"]


def cache_folder() -> Path:
    """Return the cache: `DINOV2_PARITY_CACHE`, else `dinov2-parity` in the platform's cache folder."""
    if chosen := os.environ.get("DINOV2_PARITY_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "dinov2-parity"


def store(files: Mapping[str, bytes], target: Path) -> tuple[Path, str]:
    """Write a tree of files to `target` in one step, replacing what is there.

    Returns:
        The folder that holds the files, and a note, empty unless the cache could not be written: the files
        then lie in a temporary folder that is removed when Python exits.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as staging:
            _write(files, Path(staging, "new"))
            _swap(Path(staging, "new"), Path(staging, "old"), target)
    except OSError as error:
        folder = Path(tempfile.mkdtemp(prefix="dinov2-parity-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _write(files, folder)
        why = f"the cache {target.parent} cannot be written ({error.strerror})"
        return folder, f"{why}: official code is fetched each time; set DINOV2_PARITY_CACHE to a folder that can"
    return target, ""


def _swap(new: Path, old: Path, target: Path) -> None:
    """Move `new` to `target`, and what is there to `old`: a folder that is not empty cannot be replaced."""
    with contextlib.suppress(FileNotFoundError):
        target.replace(old)
    new.replace(target)


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files, keyed by POSIX path, below a folder."""
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
