"""Images inside archives: each is a stretch of bytes of a file, found once and then read directly.

No archive stays open: a handle that is shared over a fork shares its position too, and threads would need a lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from port.data.datasets.base import BadImageError
from port.data.datasets.listed import ListedImages
from port.data.datasets.names import NameTable

__all__ = ["Extent", "PackedImages", "read_extent"]


class Extent(NamedTuple):
    """Where one member of an archive is.

    Attributes:
        archive: index of the archive.
        offset: where it starts, in bytes.
        size: how many bytes are stored.
    """

    archive: int
    offset: int
    size: int


class PackedImages(ListedImages):
    """Images that are members of one or more archives."""

    def __init__(
        self,
        origin: str,
        archives: Sequence[str],
        names: NameTable,
        extents: Iterable[Extent],
        *,
        classes: Sequence[str] = (),
        labels: NDArray[np.int32] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Set the archives and what is in them.

        Args:
            origin: as in `ListedImages`.
            archives: their paths.
            names: of the images, inside their archive.
            extents: one for each image.
            classes: as in `ListedImages`.
            labels: as in `ListedImages`.
            notes: as in `ListedImages`.
        """
        super().__init__(origin, names, classes=classes, labels=labels, notes=notes)
        # Absolute, for a loader process that starts elsewhere.
        self.archives = [os.path.abspath(archive) for archive in archives]  # noqa: PTH100 - a string is wanted
        self.extents = np.array(list(extents), dtype=np.int64).reshape(-1, 3)

    def extent(self, index: int) -> Extent:
        """Return where the image is stored."""
        archive, offset, size = self.extents[index].tolist()
        return Extent(archive, offset, size)

    def name(self, index: int) -> str:
        """Return the archive's path and the member's behind it."""
        member = self.names[index]
        return f"{self.archives[self.extent(index).archive]}/{member}"


def read_extent(archive: str, offset: int, size: int, name: str) -> bytes:
    """Return `size` bytes of a file from `offset` on.

    Raises:
        BadImageError: the file is gone, may not be read, or ends before; it names `name`.
    """
    try:
        with open(archive, "rb") as file:  # noqa: PTH123 - the path is a string
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise BadImageError(name, f"the archive cannot be read: {error.strerror or error}") from error
    if len(data) < size:
        raise BadImageError(name, f"the archive ends early: {len(data):,} of {size:,} bytes at offset {offset:,}")
    return data
