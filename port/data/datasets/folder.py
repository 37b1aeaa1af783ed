"""A folder of images, nested or flat, with or without classes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from port.data.datasets.decode import is_image_name, read_image_file
from port.data.datasets.listed import ListedImages, folder_classes, summarise_ignored
from port.data.datasets.names import NameTable, part_order

__all__ = ["FolderImages", "FolderScan", "existing_folder", "make_folder"]

logger = logging.getLogger("port")


@dataclass
class FolderScan:
    """Walks a tree and keeps account of what is left out.

    Attributes:
        ignored: files without an image's extension, counted by extension.
        unreadable: folders that could not be opened.
    """

    ignored: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    def images(self, folder: str, prefix: str = "") -> Iterator[str]:
        """Yield the images' paths below `folder`, with forward slashes, sorted by component.

        Names that start with a dot are left out silently. Links are followed, except into a folder that the
        link lies in.

        Args:
            folder: to start from.
            prefix: of the paths yielded; empty or with a slash at its end.
        """
        yield from self._walk(folder, prefix, inside=frozenset())

    def notes(self) -> list[str]:
        """Return what `describe` has to say about what is left out."""
        notes = summarise_ignored(self.ignored)
        if self.unreadable:
            notes.append(f"{len(self.unreadable):,} folders could not be opened, the first is {self.unreadable[0]}")
        return notes

    def _walk(self, folder: str, prefix: str, inside: frozenset[tuple[int, int]]) -> Iterator[str]:
        try:
            status = os.stat(folder)  # noqa: PTH116 - strings all the way down: a Path per file costs minutes
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: part_order(entry.name))
        except OSError as error:
            logger.warning("%s cannot be opened and is left out: %s", folder, error.strerror or error)
            self.unreadable.append(folder)
            return
        identity = (status.st_dev, status.st_ino)
        if identity in inside:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from self._walk(entry.path, f"{prefix}{entry.name}/", inside | {identity})
            elif is_image_name(entry.name) and _may_be_read(entry):
                yield f"{prefix}{entry.name}"
            else:
                self.ignored[os.path.splitext(entry.name)[1].lower()] += 1  # noqa: PTH122 - as above


class FolderImages(ListedImages):
    """Images that are files below one folder."""

    def __init__(
        self,
        kind: str,
        root: Path,
        names: NameTable,
        *,
        classes: Sequence[str] = (),
        labels: NDArray[np.int32] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Set the folder and what is in it.

        Args:
            kind: what `describe` calls it: `folder`, or a data set's name.
            root: the folder that `names` are relative to.
            names: the images' paths, with forward slashes.
            classes: as in `ListedImages`.
            labels: as in `ListedImages`.
            notes: as in `ListedImages`.
        """
        super().__init__(f"{kind} {root}", names, classes=classes, labels=labels, notes=notes)
        # Absolute, for a loader process that starts elsewhere.
        self.root = root.absolute()

    def name(self, index: int) -> str:
        """Return the image's path."""
        return str(self.root / self.names[index])

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_image_file(self.name(index))


def make_folder(path: str) -> FolderImages:
    """Return the images below a folder.

    Files count by their extension (`decode.IMAGE_EXTENSIONS`); what has another one is counted in `describe`,
    and what is hidden is left out. The order is that of the paths' components by code point, on every platform.
    Classes are as `folder_classes` finds them.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: it is a file.
        ValueError: no image is in it.
    """
    root = existing_folder(path)
    scan = FolderScan()
    names = NameTable(scan.images(str(root)))
    if not len(names):
        raise ValueError(_nothing_found(root, scan))
    classes, labels = folder_classes(names)
    return FolderImages("folder", root, names, classes=classes, labels=labels, notes=scan.notes())


def existing_folder(path: str) -> Path:
    """Return the folder at `path`, in which `~` stands for the home folder.

    Raises:
        FileNotFoundError: there is none.
        NotADirectoryError: it is a file.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"no folder {path!r}; expected one with images in it (in {Path.cwd()}, if relative)")
    if not root.is_dir():
        raise NotADirectoryError(f"{path!r} is a file; expected a folder of images")
    return root


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder; a link that cannot be followed, as one to itself, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a file, or a link that leads nowhere, which is reported by name when it is loaded.

    A pipe or a device is neither: reading it would wait for ever.
    """
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # a link in a circle, or through a folder that may not be entered
        return True


def _nothing_found(root: Path, scan: FolderScan) -> str:
    """Return the error for a folder without images, with what is there instead."""
    notes = "; ".join(scan.notes()) or "it is empty, or holds hidden files only"
    advice = "give a folder with .jpg, .png, .webp or .tif files in it or below"
    if ".tar" in scan.ignored:
        advice = f"for tar shards give 'wds:{root}/*.tar'"
    elif ".zip" in scan.ignored:
        advice = "for a zip archive give its own path"
    return f"no image in folder {str(root)!r}: {notes}; {advice}"
