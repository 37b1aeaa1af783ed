"""Images in one zip archive, by the rules of a folder."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from port.data.datasets.base import BadImageError
from port.data.datasets.decode import is_image_name
from port.data.datasets.listed import folder_classes, summarise_ignored
from port.data.datasets.names import NameTable, path_order
from port.data.datasets.packed import Extent, PackedImages, read_extent

__all__ = ["ZipImages", "make_zip"]

LOCAL_HEADER_SIZE = 30  # bytes in front of a member's name and extra field, whose lengths are its last four bytes
LOCAL_HEADER_START = b"PK\x03\x04"
ENCRYPTED = 0x1  # bit of a member's flags
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipImages(PackedImages):
    """Images that are members of a zip archive.

    The archive's directory is read once, here, and not again by each loader process.
    """

    def __init__(self, path: Path, members: Sequence[zipfile.ZipInfo], notes: Sequence[str]) -> None:
        """Set the archive and its members that are images, sorted."""
        names = NameTable(member.filename for member in members)
        classes, labels = folder_classes(names)
        extents = (Extent(0, member.header_offset, member.compress_size) for member in members)
        origin = f"zip archive {path}"
        super().__init__(origin, [str(path)], names, extents, classes=classes, labels=labels, notes=notes)
        facts = [(member.compress_type, member.file_size, member.CRC) for member in members]
        self.facts = np.array(facts, dtype=np.int64)

    def read(self, index: int) -> bytes:
        """Return the member, decompressed, after a look at its checksum."""
        name = self.name(index)
        extent = self.extent(index)
        method, size, checksum = (int(value) for value in self.facts[index])
        header = read_extent(self.archives[0], extent.offset, LOCAL_HEADER_SIZE, name)
        if header[:4] != LOCAL_HEADER_START:
            raise BadImageError(name, "the zip archive is damaged: no member where its directory says")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = read_extent(self.archives[0], extent.offset + LOCAL_HEADER_SIZE + lengths, extent.size, name)
        if method == zipfile.ZIP_DEFLATED:
            try:
                # The limit keeps a member that lies about its size from filling the memory.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
            except zlib.error as error:
                raise BadImageError(name, f"the zip archive is damaged: {error}") from error
        if len(data) != size or zlib.crc32(data) != checksum:
            raise BadImageError(name, "the zip archive is damaged: size or checksum differ from its directory's")
        return data


def make_zip(path: str) -> ZipImages:
    """Return the images in a zip archive; which count, in which order and with which classes is as in a folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no zip archive or a damaged one, an image is encrypted or compressed by a rare method, or
            there is no image in it.
    """
    archive = Path(path).expanduser()
    if not archive.is_file():
        raise FileNotFoundError(f"no file {path!r}; expected a zip archive of images")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not _is_left_out(member)]
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path!r} is no zip archive, or it is damaged ({error}); copy it again, and see what 'unzip -t' says"
        ) from error
    images = [member for member in members if is_image_name(member.filename)]
    ignored = Counter(
        os.path.splitext(member.filename)[1].lower()  # noqa: PTH122 - a member's name is no path here
        for member in members
        if not is_image_name(member.filename)
    )
    notes = summarise_ignored(ignored)
    if not images:
        packed = any(kind in ignored for kind in (".zip", ".tar"))
        advice = "unpack it, for archives inside are not looked into" if packed else "give one with .jpg, .png, … in it"
        raise ValueError(f"no image in zip archive {path!r}: {'; '.join(notes) or 'it is empty'}; {advice}")
    _check_readable(path, images)
    images.sort(key=lambda member: path_order(member.filename))
    return ZipImages(archive, images, notes)


def _is_left_out(member: zipfile.ZipInfo) -> bool:
    """Return whether it is a folder, or hidden, as what macOS adds is."""
    parts = member.filename.split("/")
    return member.is_dir() or parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def _check_readable(path: str, images: Sequence[zipfile.ZipInfo]) -> None:
    """Raise ValueError for what no image can be read from, rather than calling each of them bad."""
    for member in images:
        if member.flag_bits & ENCRYPTED:
            raise ValueError(f"{path!r} is encrypted ({member.filename!r}); unpack it, and give the folder")
        if member.compress_type not in METHODS:
            raise ValueError(
                f"{path!r}: {member.filename!r} is compressed by method {member.compress_type}, expected 0 (stored) "
                "or 8 (deflated); unpack it, and give the folder"
            )
