"""Bytes to an RGB image, as official code decodes them, with every failure turned into one error.

Official code is `Image.open(...).convert(mode="RGB")` (`dinov2/data/datasets/decoders.py:25`), and so is this for
ordinary images: transparency is dropped rather than blended, CMYK is converted without a colour profile, an EXIF
orientation is not applied, and of an animation the first frame counts. What differs is what `convert` would spoil:
16-bit grey is scaled (`convert` clips it to white), and 32-bit pixels, whose white level nobody knows, are refused.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from port.data.datasets.base import BadImageError

__all__ = ["IMAGE_EXTENSIONS", "decode_image", "is_image_name", "read_image_file"]

# Pillow's other formats are left out: nobody trains on them, and EPS would start Ghostscript on an unknown file.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2",),
    "AVIF": (".avif",),
}
IMAGE_EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)
# Formats whose grey images of more than 8 bits Pillow may open in mode "I", with values up to 65535.
SIXTEEN_BITS_IN_MODE_I = ("PNG", "PPM")

_warnings_lock = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked process, where the thread that held it does not exist."""
    global _warnings_lock
    _warnings_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def is_image_name(name: str) -> bool:
    """Return whether a file name has the extension of an image format that is read here."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122 - Path is slow on millions of names


def read_image_file(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        BadImageError: the file is gone, may not be read, or is no file.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise BadImageError(path, "no such file: it has vanished, or is a link that leads nowhere") from error
    except PermissionError as error:
        raise BadImageError(path, "permission denied") from error
    except OSError as error:
        raise BadImageError(path, f"cannot be read: {error.strerror or error}") from error


def decode_image(data: bytes, name: str) -> Image.Image:
    """Return the image that `data` encodes, in RGB.

    Args:
        data: the whole file.
        name: what the error calls it.

    Raises:
        BadImageError: empty, no image, truncated, damaged, too large for Pillow's limit against decompression
            bombs (twice `PIL.Image.MAX_IMAGE_PIXELS`), or with 32 bits per pixel and channel.
    """
    if not data:
        raise BadImageError(name, "empty file (0 bytes)")
    try:
        with _open_quietly(data) as image:
            image.load()
            return _to_rgb(image, name)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(name, f"not an image, or damaged at its start (it begins with {data[:8]!r})") from error
    except Image.DecompressionBombError as error:
        raise BadImageError(name, f"too many pixels: {error}") from error
    except Exception as error:  # Pillow's decoders raise anything from SyntaxError to struct.error on damaged data
        raise BadImageError(name, f"truncated or damaged: {error or type(error).__name__}") from error


def _open_quietly(data: bytes) -> Image.Image:
    """Open without Pillow's warnings (odd EXIF, many pixels): what matters of them becomes an error on loading."""
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    # catch_warnings changes a global; two threads that interleave would leave it changed.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data), formats=formats)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a loaded image to RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS_IN_MODE_I):
        values = np.asarray(image).astype(np.uint32).clip(max=65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "integers" if image.mode == "I" else "floating point numbers"
        raise BadImageError(name, f"32-bit {kind}, whose white level is unknown: convert it to 8 or 16 bits")
    # Pillow warns about transparency on this conversion, although it changes no pixel.
    image.info.pop("transparency", None)
    return image.convert("RGB")
