"""Tiles of the photographs and tissue slides that scikit-image's wheel carries: real images without a download.

The label of a tile is the image that it comes from, and a tile of one split shares no pixel with one of another
(`tiles`). Tiles are grey unless asked for otherwise: the colour alone would tell most of these images apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from port.data.datasets.base import ImageSource
from port.data.datasets.decode import decode_image, read_image_file
from port.data.datasets.strings import parse_choice, parse_count, parse_options, parse_truth
from port.data.datasets.tiles import SPLITS, Box, largest_size, split_region, tile_boxes

__all__ = ["BUNDLED", "DEFAULT_IMAGES", "FORM", "BundledTiles", "Tile", "data_folder", "make_bundled"]

FORM = (
    "skimage:split=train|val|test[:size=96][:stride=N][:tiles=N][:grey=true|false][:normalise=true|false]"
    "[:images=NAME,NAME,…]"
)
KEYS = ("split", "size", "stride", "tiles", "grey", "normalise", "images")
# Read from the package's folder by name: skimage.data's functions download what the wheel lacks.
BUNDLED = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cell": "cell.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble_deep_field": "hubble_deep_field.jpg",
    "ihc": "ihc.png",
    "moon": "moon.png",
    "motorcycle_left": "motorcycle_left.png",
    "page": "page.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "text": "text.png",
}
# `cell` is mostly empty, and `text` no higher than two tiles.
DEFAULT_IMAGES = tuple(name for name in BUNDLED if name not in ("cell", "text"))
DEFAULT_SIZE = 96
DEFAULT_TILES = {"train": 160, "val": 32, "test": 32}
NORMAL_MEAN, NORMAL_DEVIATION = 128.0, 48.0  # of a normalised tile's grey values, before they are cut off at 0 and 255


class Tile(NamedTuple):
    """One tile: the index of its image in `classes`, and where it is."""

    image: int
    box: Box


class BundledTiles(ImageSource):
    """Square tiles of bundled images, all of one split."""

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        images: Sequence[str] = DEFAULT_IMAGES,
        size: int = DEFAULT_SIZE,
        stride: int | None = None,
        max_tiles: int | None = None,
        grey: bool = True,
        normalise: bool = False,
    ) -> None:
        """Lay the grid; the images are read when a tile is asked for.

        Args:
            folder: scikit-image's folder of images.
            split: `train`, `val` or `test`.
            images: names in `BUNDLED`, in the order of the labels.
            size: a tile's side, in pixels.
            stride: distance between tiles, in pixels; None for a quarter tile in train, half a tile elsewhere.
            max_tiles: per image; None for 160 in train, 32 elsewhere. Where there would be more, the grid is wider.
            grey: three equal channels instead of colour.
            normalise: give each tile the same mean and standard deviation, so that brightness and contrast do
                not tell the images apart either.

        Raises:
            FileNotFoundError: an image is not in `folder`.
            ValueError: a tile does not fit into one of the images.
        """
        self.folder, self.split, self.classes, self.size = folder, split, list(images), size
        self.grey, self.normalise = grey, normalise
        self._pixels: dict[int, NDArray[np.uint8]] = {}
        stride = stride or max(1, size // (4 if split == "train" else 2))
        max_tiles = max_tiles or DEFAULT_TILES[split]
        sizes = [self._size_of(name) for name in images]
        if too_small := [name for name, sides in zip(images, sizes, strict=True) if size > largest_size(*sides)]:
            most = min(largest_size(*sides) for sides in sizes)
            raise ValueError(
                f"tiles of size={size} do not fit three times into {', '.join(too_small)}; expected at most "
                f"size={most}, or images= without these"
            )
        self.tiles = [
            Tile(label, box)
            for label, (width, height) in enumerate(sizes)
            for box in tile_boxes(split_region(width, height, split, size), size, stride, max_tiles)
        ]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getstate__(self) -> dict[str, Any]:
        # A loader process reads the images itself, rather than receiving megabytes of pixels.
        return {**self.__dict__, "_pixels": {}}

    def load(self, index: int) -> Image.Image:
        """Return the tile, `size` pixels wide and high, in RGB; raises as `ImageSource.load` says."""
        image, box = self._tile(index)
        tile = self._image(image)[box.upper : box.lower, box.left : box.right]
        if self.normalise:
            values = tile.astype(np.float64)
            scaled = (values - values.mean()) / max(values.std(), 1.0) * NORMAL_DEVIATION + NORMAL_MEAN
            tile = scaled.round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(tile).convert("RGB")

    def name(self, index: int) -> str:
        """Return the image's file, and the tile's place in it: `…/brick.png[x=118, y=0]`."""
        image, box = self._tile(index)
        return f"{self.folder / BUNDLED[self.classes[image]]}[x={box.left}, y={box.upper}]"

    def label(self, index: int) -> int:
        """Return the index of the tile's image in `classes`."""
        return self._tile(index).image

    def describe(self) -> str:
        """Return one line: how many tiles of how many images, and what they look like."""
        look = f"{'grey' if self.grey else 'colour'}{', normalised' if self.normalise else ''}"
        return (
            f"{len(self):,} {look} tiles of {self.size}×{self.size} pixels, {len(self.classes)} classes, one per image "
            f"bundled with scikit-image, {self.split} strips"
        )

    def _tile(self, index: int) -> Tile:
        if not 0 <= index < len(self.tiles):
            raise IndexError(f"index {index} is out of range for {len(self.tiles)} tiles")
        return self.tiles[index]

    def _size_of(self, name: str) -> tuple[int, int]:
        """Return an image's (width, height), from its header."""
        path = self.folder / BUNDLED[name]
        if not path.is_file():
            raise FileNotFoundError(
                f"scikit-image's wheel has no {path.name} in {self.folder}; leave {name} out of images="
            )
        with Image.open(path) as image:
            width, height = image.size
        return width, height

    def _image(self, label: int) -> NDArray[np.uint8]:
        """Return an image's pixels, (height, width) if grey, otherwise (height, width, 3)."""
        if label not in self._pixels:
            path = str(self.folder / BUNDLED[self.classes[label]])
            image = decode_image(read_image_file(path), path)
            self._pixels[label] = np.asarray(image.convert("L") if self.grey else image)
        return self._pixels[label]


def make_bundled(dataset_str: str) -> BundledTiles:
    """Return the tiles that `bundled` or `skimage:split=…` names; the options are `BundledTiles`' arguments.

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: an option is unknown or has no valid value.
    """
    options = parse_options(dataset_str, known=KEYS, form=FORM)
    split = parse_choice(dataset_str, "split", options.get("split", "train").lower(), SPLITS)
    images = options.get("images", ",".join(DEFAULT_IMAGES)).split(",")
    for name in images:
        parse_choice(dataset_str, "image", name, BUNDLED)
    if len(set(images)) < len(images):
        raise ValueError(f"{dataset_str!r}: an image is named twice, which would make two classes of it; name it once")
    counts = {key: parse_count(dataset_str, key, options[key]) for key in ("size", "stride", "tiles") if key in options}
    return BundledTiles(
        data_folder(),
        split,
        images=images,
        size=counts.get("size", DEFAULT_SIZE),
        stride=counts.get("stride"),
        max_tiles=counts.get("tiles"),
        grey=parse_truth(dataset_str, "grey", options.get("grey", "true")),
        normalise=parse_truth(dataset_str, "normalise", options.get("normalise", "false")),
    )


def data_folder() -> Path:
    """Return scikit-image's folder of images, without importing scikit-image, which takes a second.

    Raises:
        ImportError: it is not installed.
    """
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "the bundled images are scikit-image's, which is not installed: pip install 'dinov2-parity[train]'; "
            "or give a folder of your own images"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"
