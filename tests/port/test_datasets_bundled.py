from __future__ import annotations

import importlib.metadata
import pickle
import socket
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import skimage
from datasets_files import labels
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from port.data.datasets import make_dataset
from port.data.datasets.bundled import BUNDLED, DEFAULT_IMAGES, BundledTiles, make_bundled
from port.data.datasets.tiles import GAP, SPLITS, Box, largest_size, split_region, tile_boxes

sides = st.integers(1, 700)


def pixels(source: BundledTiles, index: int) -> NDArray[np.uint8]:
    """Return a tile's pixels."""
    return np.asarray(source.load(index))


def is_inside(box: Box, outer: Box) -> bool:
    """Return whether a box lies in another."""
    return outer.left <= box.left < box.right <= outer.right and outer.upper <= box.upper < box.lower <= outer.lower


@settings(max_examples=200, deadline=None)
@given(width=sides, height=sides, size=st.integers(1, 200))
def test_strips_are_apart_and_hold_a_tile(width: int, height: int, size: int) -> None:
    """Wherever a tile fits, the three strips lie in the image, at least a gap apart, each with room for one."""
    if size > largest_size(width, height):
        with pytest.raises(ValueError, match=f"tiles of {size} pixels do not fit"):
            split_region(width, height, "train", size)
        return
    strips = [split_region(width, height, split, size) for split in ("val", "train", "test")]
    for strip in strips:
        assert is_inside(strip, Box(0, 0, width, height))
        assert strip.right - strip.left >= size
        assert strip.lower - strip.upper >= size
    for before, after in pairwise(strips):
        gap = after.left - before.right if width >= height else after.upper - before.lower
        assert gap == GAP == 16


def test_the_strips_of_a_photograph() -> None:
    """By hand, for 512 pixels: a fifth is 102; for 600 wide and 400 high, 120; upright, the strips lie flat."""
    assert [split_region(512, 512, split, 96) for split in ("val", "train", "test")] == [
        (0, 0, 102, 512),
        (118, 0, 394, 512),
        (410, 0, 512, 512),
    ]
    assert split_region(600, 400, "test", 96) == (480, 0, 600, 400)
    assert split_region(400, 600, "test", 96) == (0, 480, 400, 600)
    assert split_region(384, 191, "val", 96) == (0, 0, 96, 191), "a fifth, 76, would be less than a tile"


@settings(max_examples=200, deadline=None)
@given(width=st.integers(8, 300), height=st.integers(8, 300), stride=st.integers(1, 400), max_tiles=st.integers(1, 400))
def test_tiles_cover_the_region_without_leaving_it(width: int, height: int, stride: int, max_tiles: int) -> None:
    """Tiles differ, lie inside, are no more than allowed, and reach both edges if there is more than one a row."""
    region = Box(5, 7, 5 + width, 7 + height)
    boxes = tile_boxes(region, 8, stride, max_tiles)
    assert 1 <= len(boxes) == len(set(boxes)) <= max_tiles
    assert all(is_inside(box, region) and box.right - box.left == 8 == box.lower - box.upper for box in boxes)
    lefts = sorted({box.left for box in boxes})
    if len(lefts) > 1:
        assert (lefts[0], lefts[-1] + 8) == (region.left, region.right)
    if len(boxes) < max_tiles and len(lefts) > 1 and stride == 1 and width * height <= max_tiles:
        assert len(boxes) == (width - 7) * (height - 7)


def test_the_grid_is_even() -> None:
    """By hand: 20 pixels hold tiles of 8 at 0, 4, 8 and 12 with a stride of 4, and at 0, 6 and 12 with one of 6."""
    region = Box(0, 0, 20, 8)
    assert [box.left for box in tile_boxes(region, 8, 4, 99)] == [0, 4, 8, 12]
    assert [box.left for box in tile_boxes(region, 8, 6, 99)] == [0, 6, 12]
    assert [box.left for box in tile_boxes(region, 8, 5, 99)] == [0, 4, 8, 12], "5 does not divide 12; closer, then"
    assert [box.left for box in tile_boxes(region, 8, 4, 3)] == [0, 6, 12]
    assert [box.left for box in tile_boxes(region, 8, 4, 1)] == [6]


def test_no_test_pixel_is_a_train_pixel() -> None:
    """Marks each tile of each split on its image: no pixel is marked by two splits, and a gap lies between."""
    for name in BUNDLED:
        splits = [make_bundled(f"skimage:split={split}:images={name}") for split in SPLITS]
        with Image.open(splits[0].folder / BUNDLED[name]) as image:
            marked = [np.zeros((image.height, image.width), dtype=bool) for _ in SPLITS]
        for source, mark in zip(splits, marked, strict=True):
            for tile in source.tiles:
                assert is_inside(tile.box, Box(0, 0, mark.shape[1], mark.shape[0]))
                mark[tile.box.upper : tile.box.lower, tile.box.left : tile.box.right] = True
        along = 0 if marked[0].shape[1] >= marked[0].shape[0] else 1
        train, val, test = (np.flatnonzero(mark.any(axis=along)) for mark in marked)
        assert val.max() + GAP < train.min()
        assert train.max() + GAP < test.min()


def test_the_defaults() -> None:
    """Fifteen classes, all present in each split, up to 160 tiles for training and 32 for testing, 96 pixels, grey."""
    assert len(DEFAULT_IMAGES) == 15
    counts = {}
    for split, most in (("train", 160), ("val", 32), ("test", 32)):
        source = make_bundled(f"skimage:split={split}")
        assert source.classes == list(DEFAULT_IMAGES)
        per_class = np.bincount(np.array(labels(source), dtype=np.int64), minlength=15)
        assert per_class.min() >= 1
        assert per_class.max() <= most
        assert source.load(0).size == (96, 96)
        counts[split] = len(source)
    assert counts["train"] > 1000
    assert 200 < counts["val"] == counts["test"]
    assert make_dataset("bundled").describe() == (
        f"{counts['train']:,} grey tiles of 96×96 pixels, 15 classes, one per image bundled with scikit-image, "
        "train strips"
    )


def test_tiles_are_the_images_own_pixels() -> None:
    """A tile in colour equals the same rectangle of what scikit-image itself reads; grey has three equal channels."""
    whole = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    source = make_bundled("skimage:split=test:grey=false:images=camera,astronaut:size=32")
    index = labels(source).index(1)
    box = source.tiles[index].box
    assert np.array_equal(pixels(source, index), whole[box.upper : box.lower, box.left : box.right])
    assert source.name(index) == f"{source.folder}/astronaut.png[x={box.left}, y={box.upper}]"
    grey = make_bundled("skimage:split=test:images=camera,astronaut:size=32")
    tile = pixels(grey, index)
    assert tile.shape == (32, 32, 3)
    assert np.array_equal(tile[..., 0], tile[..., 1])
    assert np.array_equal(tile[..., 0], tile[..., 2])
    expected = Image.fromarray(whole[box.upper : box.lower, box.left : box.right]).convert("L")
    assert np.array_equal(tile[..., 0], np.asarray(expected))


def test_normalised_tiles_have_the_same_brightness_and_contrast() -> None:
    """Mean 128 and standard deviation 48, up to what is cut off at black and white; the order of pixels is kept."""
    plain, even = (make_bundled(f"skimage:split=val:images=brick,grass:normalise={value}") for value in ("no", "yes"))
    for index in range(len(even)):
        assert pixels(even, index).mean() == pytest.approx(128, abs=4)
        assert pixels(even, index).std() == pytest.approx(48, abs=4)
        before, after = pixels(plain, index).ravel().astype(int), pixels(even, index).ravel().astype(int)
        order = np.argsort(before, kind="stable")
        assert (np.diff(after[order]) >= 0).all()
    assert "grey, normalised tiles" in even.describe()


def test_a_flat_tile_can_be_normalised(tmp_path: Path) -> None:
    """Without contrast there is nothing to scale: it becomes plain grey, not a division by zero."""
    Image.new("L", (120, 120), 7).save(tmp_path / "brick.png")
    source = BundledTiles(tmp_path, "train", images=["brick"], size=16, normalise=True)
    assert np.unique(pixels(source, 0)).tolist() == [128]


def test_options_are_understood() -> None:
    """Size, stride and number of tiles take effect; labels follow the order that the images are named in."""
    source = make_bundled("skimage:split=train:size=64:stride=32:tiles=9:images=moon,brick")
    assert source.classes == ["moon", "brick"]
    assert labels(source) == sorted(labels(source), key=lambda label: label or 0)
    assert 1 <= labels(source).count(0) == labels(source).count(1) <= 9
    dense, sparse = (make_bundled(f"skimage:size=64:stride={n}:tiles=9999:images=moon") for n in (16, 64))
    assert len(dense) > 10 * len(sparse)


def test_pickled_tiles_are_the_same_and_small() -> None:
    """A loader process gets no pixels, and reads the same ones."""
    source = make_bundled("skimage:split=val")
    first = pixels(source, 3)
    data = pickle.dumps(source)
    assert len(data) < 50_000
    assert np.array_equal(pixels(pickle.loads(data), 3), first)  # noqa: S301 - made two lines above


@pytest.mark.parametrize("index", [-1, 10_000])
def test_an_index_out_of_range_is_an_index_error(index: int) -> None:
    """As for every data set."""
    source = make_bundled("bundled")
    for access in (source.load, source.name, source.label):
        with pytest.raises(IndexError, match="out of range"):
            access(index)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("split=trian", "no split 'trian', did you mean 'train'"),
        ("size=0", "size='0' is no positive whole number"),
        ("size=big", "size='big' is no positive whole number"),
        ("stride=-3", "stride='-3' is no positive"),
        ("grey=perhaps", "grey='perhaps' is neither true nor false"),
        ("images=bricks", "no image 'bricks', did you mean 'brick'"),
        ("images=brick,brick", "named twice"),
        ("root=/data", "no option 'root'.*expected skimage:split="),
        ("size=200", r"size=200 do not fit three times into .*chelsea, .*coins.*at most size=117"),
        ("train", "'train' is no key=value"),
    ],
)
def test_mistakes_in_the_string_are_named(options: str, words: str) -> None:
    """Each error names the value and what was expected."""
    for name in ("bundled", "skimage"):
        with pytest.raises(ValueError, match=words):
            make_dataset(f"{name}:{options}")


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images come from the installed wheel, listed in its record; no connection is tried."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    source = make_bundled(f"skimage:images={','.join(BUNDLED)}")
    assert len({labels(source)[index] for index in range(len(source)) if source.load(index)}) == len(BUNDLED) == 17
    record = importlib.metadata.distribution("scikit-image").read_text("RECORD")
    assert record is not None
    assert all(f"skimage/data/{file}," in record for file in BUNDLED.values())


def test_a_wheel_without_an_image_is_an_error(tmp_path: Path) -> None:
    """Another version of scikit-image may have dropped one: the error names it and what to do."""
    with pytest.raises(FileNotFoundError, match=r"has no brick\.png in .*leave brick out of images="):
        BundledTiles(tmp_path, "train", images=["brick"])


def test_without_scikit_image_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional."""
    monkeypatch.setattr("port.data.datasets.bundled.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'dinov2-parity\[train\]'.*your own images"):
        make_dataset("bundled")
