"""Images in tar archives, found by their headers: shards of webdataset's, and official's ImageNet-22k."""

from __future__ import annotations

import gzip
import logging
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from port.data.datasets.base import BadImageError
from port.data.datasets.decode import is_image_name
from port.data.datasets.listed import summarise_ignored
from port.data.datasets.names import NameTable
from port.data.datasets.packed import Extent, PackedImages, read_extent

__all__ = ["TarImages", "make_tarballs", "tar_members"]

logger = logging.getLogger("port")

BLOCK = 512  # bytes; headers take one, and data a whole number of them
GZIP_START = b"\x1f\x8b"
# What a compressed archive starts with; a position in one is only reached by unpacking all before it.
COMPRESSIONS = {GZIP_START: "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


class TarImages(PackedImages):
    """Images that are members of tar archives."""

    def read(self, index: int) -> bytes:
        """Return the member, unpacked where it is gzipped, as 26 of ImageNet-22k are."""
        name = self.name(index)
        extent = self.extent(index)
        data = read_extent(self.archives[extent.archive], extent.offset, extent.size, name)
        if not data.startswith(GZIP_START):
            return data
        try:
            return gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise BadImageError(name, f"gzipped and damaged: {error}") from error


def tar_members(path: str) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset in bytes, size in bytes) of an archive's files, reading nothing but their headers.

    Of a truncated or damaged archive what lies before the damage is yielded, and a warning names the archive.

    Raises:
        OSError: the archive cannot be opened.
        ValueError: it is compressed, or no tar archive at all.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - the path is a string
        start = file.read(BLOCK)
        _check_start(path, start)
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        count = 0
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    if member.offset_data + member.size > length and member.isreg():
                        raise tarfile.ReadError(f"{member.name!r} is cut off")
                    if member.isreg() and not member.issparse():
                        count += 1
                        yield member.name, member.offset_data, member.size
                _check_end(file, archive.offset)
        except tarfile.TarError as error:
            if not count and not _looks_like_tar(start):
                raise ValueError(f"{path!r} is no tar archive ({error}); expected one with images") from error
            logger.warning("%s is truncated or damaged, its first %d files are used: %s", path, count, error)


def make_tarballs(origin: str, paths: Sequence[Path], notes: Sequence[str] = ()) -> TarImages:
    """Return the images in tar archives, one archive per class, in the archives' order.

    Args:
        origin: what `describe` calls them.
        paths: the archives; a class is called like its archive.
        notes: what else `describe` has to say.

    Raises:
        OSError: an archive cannot be opened.
        ValueError: an archive is compressed or none, or there is no image in any.
    """
    found: list[str] = []
    extents: list[Extent] = []
    ignored: Counter[str] = Counter()
    for number, path in enumerate(paths):
        for name, offset, size in tar_members(str(path)):
            if is_image_name(name):
                found.append(name)
                extents.append(Extent(number, offset, size))
            else:
                ignored[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122 - a member's name is no path here
    if not found:
        kinds = "; ".join(["", *summarise_ignored(ignored)])
        raise ValueError(f"no image in the {len(paths)} tar archives of {origin}{kinds}")
    labels: NDArray[np.int32] = np.array([extent.archive for extent in extents], dtype=np.int32)
    return TarImages(
        origin,
        [str(path) for path in paths],
        NameTable(found),
        extents,
        classes=[path.stem for path in paths],
        labels=labels,
        notes=[*summarise_ignored(ignored), *notes],
    )


def _check_start(path: str, start: bytes) -> None:
    """Raise ValueError for an archive in which no member can be reached directly."""
    for mark, method in COMPRESSIONS.items():
        if start.startswith(mark):
            raise ValueError(
                f"{path!r} is compressed ({method}), so no image in it can be reached without unpacking all before it; "
                "unpack it to a plain .tar (images are compressed already)"
            )


def _check_end(file: IO[bytes], offset: int) -> None:
    """Raise ReadError unless the block where `tarfile` stopped marks an archive's end: `tarfile` takes any other."""
    file.seek(offset)
    block = file.read(BLOCK)
    if not block:
        raise tarfile.ReadError("the mark at its end is missing")
    if block != bytes(BLOCK):
        raise tarfile.ReadError(f"no header at offset {offset:,}")


def _looks_like_tar(start: bytes) -> bool:
    """Return whether the first block bears a tar header's mark."""
    return start[257:262] == b"ustar"
