"""Files that the tests of data sets read: small images, encoded, and archives of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from port.data.datasets import ImageSource


def encoded(colour: tuple[int, int, int] = (255, 0, 0), kind: str = "PNG", side: int = 4) -> bytes:
    """Return a square image of one colour as a file's bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, kind)
    return buffer.getvalue()


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below `root`, which is returned."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_images(root: Path, *names: str) -> Path:
    """Write a small image at each of the paths below `root`, which is returned."""
    return write_tree(root, dict.fromkeys(names, encoded()))


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip archive with these members, in this order."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    """Write a tar archive with these members, in this order."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload] # mypy wants a literal mode
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def relative_names(source: ImageSource, root: Path) -> list[str]:
    """Return the images' names, which start with `root`, without it."""
    return [source.name(index).removeprefix(f"{root}/") for index in range(len(source))]


def labels(source: ImageSource) -> list[int | None]:
    """Return all labels."""
    return [source.label(index) for index in range(len(source))]


def colour(source: ImageSource, index: int) -> tuple[int, ...]:
    """Return an image's first pixel."""
    pixel = source.load(index).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return tuple(int(value) for value in pixel)
