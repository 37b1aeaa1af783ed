from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from parity import photographs as photographs_module
from parity.photographs import MODES, ORIGINALS, encoded, photographs
from port.data.datasets.bundled import data_folder


def test_two_hundred_images_differ() -> None:
    """No two have the same pixels; all are RGB, of at least 24 pixels a side."""
    images = [photograph.image for photograph in photographs(200)]
    digests = {hashlib.sha256(image.tobytes() + str(image.size).encode()).hexdigest() for image in images}
    assert len(digests) == 200
    assert {image.mode for image in images} == {"RGB"}
    assert min(min(image.size) for image in images) == 24


def test_they_are_the_same_ones_every_time() -> None:
    """Names and pixels repeat, and fewer are the first ones."""
    few, more = list(photographs(5)), list(photographs(9))
    assert [p.name for p in few] == [p.name for p in more[:5]]
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(few, more, strict=False))


def test_modes_sources_sizes_and_shapes_vary() -> None:
    """Every bundled image and mode occurs, strips lying and standing, small pieces and nearly whole pictures."""
    images = list(photographs(200))
    words = [p.name.split() for p in images]
    assert {w[1] for w in words} == set(ORIGINALS)
    assert {w[3] for w in words} == set(MODES)
    aspects = [p.image.width / p.image.height for p in images]
    assert min(aspects) < 0.25
    assert max(aspects) > 4
    areas = [p.image.width * p.image.height for p in images]
    assert min(areas) < 1500
    assert max(areas) > 300_000


def test_a_mode_leaves_its_trace() -> None:
    """Black and white has two levels, grey three equal channels, and colour neither."""
    by_mode = {p.name.split()[3]: np.array(p.image) for p in photographs(8)}
    assert set(np.unique(by_mode["1"])) <= {0, 255}
    assert (by_mode["L"][..., 0] == by_mode["L"][..., 2]).all()
    assert (by_mode["RGB"][..., 0] != by_mode["RGB"][..., 2]).any()


def test_they_are_pieces_of_the_originals() -> None:
    """A region that was stored as RGB stands in its picture as it is."""
    photograph = next(iter(photographs(1)))
    name = photograph.name.split()[1]
    original = np.array(photographs_module._original(data_folder() / f"{name}.png"))
    piece = np.array(photograph.image)
    height, width = piece.shape[:2]
    first = [
        (y, x)
        for y, x in np.argwhere((original == piece[0, 0]).all(-1)).tolist()
        if (original[y : y + height, x : x + width].shape == piece.shape)
    ]
    assert any((original[y : y + height, x : x + width] == piece).all() for y, x in first)


def test_files_have_the_formats_that_they_are_called_by() -> None:
    """Each file opens as its format; CMYK, palettes, alpha, frames and the orientation are really in them."""
    opened = {name: Image.open(io.BytesIO(data)) for name, data in encoded()}
    assert len(opened) == 12
    for name, image in opened.items():
        assert image.format == name.split()[0]
    assert opened["JPEG CMYK"].mode == opened["TIFF CMYK"].mode == "CMYK"
    assert opened["PNG palette"].mode == "P"
    assert opened["PNG black and white"].mode == "1"
    low, high = np.array(opened["PNG grey with alpha"])[..., 1].min(), np.array(opened["PNG RGBA"])[..., 3].max()
    assert (low < 9, high > 246) == (True, True)
    assert opened["GIF of two frames"].n_frames == 2  # type: ignore[attr-defined] # of Pillow's GIF class
    assert opened["JPEG with an EXIF orientation"].getexif()[0x0112] == 6


def test_a_wheel_without_a_picture_says_which(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder that lacks one is an error that names the file."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        photographs_module._original(tmp_path_factory.mktemp("empty") / "nowhere.png")
