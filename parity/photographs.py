"""Real images for the augmentations to work on: regions of the pictures that scikit-image's wheel carries.

The wheel holds 17 photographs, micrographs and scans. A region of one, cut at a random place with a random size and
aspect ratio and stored in a random one of Pillow's modes, is as different a start for a crop as two photographs are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from port.data.datasets.bundled import BUNDLED, data_folder

__all__ = ["MODES", "ORIGINALS", "Photograph", "encoded", "photographs"]

ORIGINALS = tuple(BUNDLED)
MODES = ("RGB", "L", "RGBA", "CMYK", "P", "LA", "1", "YCbCr")
"""Pillow's modes of 8 bits or fewer in which a region may be stored before it is converted to RGB."""

_SMALLEST = 24  # pixels along the shorter side
_WIDEST = 6.0  # aspect ratio
_ROTATED = 6  # EXIF's number for an image that stands on its side


class Photograph(NamedTuple):
    """A region of a bundled image.

    Attributes:
        name: where it is from and how it was stored, for a report.
        image: in RGB, as official's datasets hand it to the augmentation (`dinov2/data/datasets/decoders.py:23`).
    """

    name: str
    image: Image.Image


def photographs(count: int) -> Iterator[Photograph]:
    """Yield `count` regions, the same ones every time; the bundled images, modes, sizes and aspect ratios take turns.

    Raises:
        ImportError: scikit-image is not installed.
        FileNotFoundError: this version of its wheel lacks one of the images.
    """
    folder = data_folder()
    for number in range(count):
        generator = np.random.default_rng(number)
        name, mode = ORIGINALS[number % len(ORIGINALS)], MODES[number % len(MODES)]
        region = _region(_original(folder / BUNDLED[name]), generator)
        width, height = region.size
        image = region.convert(mode).convert("RGB")
        yield Photograph(f"{number:03d} {name} {width}x{height} {mode}", image)


@lru_cache(maxsize=len(ORIGINALS))
def _original(path: Path) -> Image.Image:
    with Image.open(path) as image:
        rgb: Image.Image = image.convert("RGB")
    return rgb


def _region(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Cut a region whose area and aspect ratio are uniform in their logarithms, as far as the image reaches."""
    width, height = image.size
    area = np.exp(generator.uniform(np.log(_SMALLEST**2), np.log(width * height)))
    aspect = np.exp(generator.uniform(-np.log(_WIDEST), np.log(_WIDEST)))
    w = int(np.clip(round((area * aspect) ** 0.5), _SMALLEST, width))
    h = int(np.clip(round((area / aspect) ** 0.5), _SMALLEST, height))
    left, top = int(generator.integers(0, width - w + 1)), int(generator.integers(0, height - h + 1))
    return image.crop((left, top, left + w, top + h))


def encoded() -> Iterator[tuple[str, bytes]]:
    """Yield (name, file content) of a region in the formats, modes and peculiarities that data sets contain.

    Transparency, CMYK, palettes, grey, an EXIF orientation and several frames; none has more than 8 bits.

    Raises:
        ImportError: scikit-image is not installed.
    """
    folder = data_folder()
    region = _original(folder / BUNDLED["coffee"]).crop((60, 40, 124, 88))
    clear = region.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(region.size))
    frames = [region.convert("P"), _original(folder / BUNDLED["chelsea"]).crop((60, 40, 124, 88)).convert("P")]
    orientation = Image.Exif()
    orientation[0x0112] = _ROTATED
    for name, image, form, options in (
        ("JPEG RGB", region, "JPEG", {"quality": 90}),
        ("JPEG grey", region.convert("L"), "JPEG", {}),
        ("JPEG CMYK", region.convert("CMYK"), "JPEG", {}),
        ("JPEG with an EXIF orientation", region, "JPEG", {"exif": orientation}),
        ("PNG RGB", region, "PNG", {}),
        ("PNG black and white", region.convert("1"), "PNG", {}),
        ("PNG grey with alpha", clear.convert("LA"), "PNG", {}),
        ("PNG palette", region.convert("P"), "PNG", {}),
        ("PNG RGBA", clear, "PNG", {}),
        ("GIF of two frames", frames[0], "GIF", {"save_all": True, "append_images": frames[1:]}),
        ("TIFF CMYK", region.convert("CMYK"), "TIFF", {}),
        ("BMP RGB", region, "BMP", {}),
    ):
        stream = io.BytesIO()
        image.save(stream, form, **options)
        yield name, stream.getvalue()
