"""Where tiles are cut from an image: three strips that share no pixel, and a regular grid in each.

Along the image's longer side (its width, if it is square) lie, in this order,

    val | gap | train | gap | test

over the whole of the shorter side. Val and test are a fifth of the longer side each, and at least one tile; each gap
is 16 pixels, the size of a JPEG block with subsampled colour, so that not even compression couples two strips. Train
lies in the middle, so that val and test are equally far from it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GAP", "SPLITS", "Box", "largest_size", "split_region", "tile_boxes"]

GAP = 16  # pixels between two strips
HELD_OUT_SHARE = 5  # the longer side's part that val, and test, take: one fifth
SPLITS = ("train", "val", "test")


class Box(NamedTuple):
    """A rectangle in pixels; `right` and `lower` are the first column and row outside."""

    left: int
    upper: int
    right: int
    lower: int


def largest_size(width: int, height: int) -> int:
    """Return the side of the largest tile that fits into each of an image's strips, in pixels."""
    return min(width, height, (max(width, height) - 2 * GAP) // 3)


def split_region(width: int, height: int, split: str, size: int) -> Box:
    """Return the strip of an image that belongs to a split.

    Args:
        width: the image's, in pixels.
        height: the image's, in pixels.
        split: one of `SPLITS`.
        size: a tile's side, in pixels.

    Raises:
        ValueError: a tile of this size does not fit.
    """
    if size > largest_size(width, height):
        raise ValueError(f"tiles of {size} pixels do not fit, at most {largest_size(width, height)} do")
    longer = max(width, height)
    # The second bound leaves the middle one tile, where a fifth would be too much.
    held_out = max(size, min(longer // HELD_OUT_SHARE, (longer - size) // 2 - GAP))
    start, end = {
        "val": (0, held_out),
        "train": (held_out + GAP, longer - held_out - GAP),
        "test": (longer - held_out, longer),
    }[split]
    return Box(start, 0, end, height) if width >= height else Box(0, start, width, end)


def tile_boxes(region: Box, size: int, stride: int, max_tiles: int) -> list[Box]:
    """Return the tiles of a region, row by row, on a regular grid that reaches from edge to edge.

    Args:
        region: at least one tile wide and high.
        size: a tile's side, in pixels.
        stride: largest distance between two tiles, in pixels; grows where there would be too many.
        max_tiles: the number of tiles is at most this.
    """
    while True:
        rows = _positions(region.upper, region.lower, size, stride)
        columns = _positions(region.left, region.right, size, stride)
        if len(rows) * len(columns) <= max_tiles:
            return [Box(x, y, x + size, y + size) for y in rows for x in columns]
        stride += max(1, stride // 16)
        if stride > max(region.right - region.left, region.lower - region.upper):
            middle_x, middle_y = (region.left + region.right - size) // 2, (region.upper + region.lower - size) // 2
            return [Box(middle_x, middle_y, middle_x + size, middle_y + size)]


def _positions(start: int, end: int, size: int, stride: int) -> list[int]:
    """Return where tiles start, evenly spaced, the first at `start` and the last ending at `end`."""
    room = end - start - size
    steps = -(-room // stride)
    return [start + step * room // max(steps, 1) for step in range(steps + 1)]
