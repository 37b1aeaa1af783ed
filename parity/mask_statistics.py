"""What a mask looks like, in numbers that a person can read: coverage, overshoot, blocks and their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

__all__ = ["FEATURES", "PLACES", "batch_features", "components", "mask_features"]

FEATURES = (
    "mean",
    "max",
    "over",
    "under",
    "components",
    "area",
    "aspect",
    "row",
    "column",
)
"""Mean and largest count, share over and under the target, 4-connected components per mask, their mean area
(patches) and aspect (height over width of the bounding box, geometric mean), and the mean row and column of
masked patches as shares of the grid."""


def components(mask: np.ndarray) -> list[np.ndarray]:
    """Return the 4-connected components of a bool mask (H, W), each as an int array (n, 2) of (row, column)."""
    labels, count = ndimage.label(mask)
    return [np.argwhere(labels == number) for number in range(1, count + 1)]


def mask_features(masks: Sequence[np.ndarray], asked: int) -> Mapping[str, float]:
    """Summarise masks (H, W) drawn for the same target.

    Args:
        masks: bool arrays of one shape.
        asked: the number of patches that each was asked to cover.
    """
    counts = np.array([int(mask.sum()) for mask in masks])
    parts = [components(mask) for mask in masks]
    shapes = [np.ptp(part, axis=0) + 1 for found in parts for part in found]
    areas = [len(part) for found in parts for part in found]
    places = np.concatenate([np.argwhere(mask) for mask in masks])
    height, width = masks[0].shape
    return {
        "mean": float(counts.mean()),
        "max": float(counts.max()),
        "over": float((counts > asked).mean()),
        "under": float((counts < asked).mean()),
        "components": float(np.mean([len(found) for found in parts])),
        "area": float(np.mean(areas)) if areas else 0.0,
        "aspect": float(np.exp(np.mean([np.log(h / w) for h, w in shapes]))) if shapes else 1.0,
        "row": float(places[:, 0].mean() / height) if len(places) else 0.5,
        "column": float(places[:, 1].mean() / width) if len(places) else 0.5,
    }


PLACES = ("row of the masked crops in the batch", "fuller masks come later in the batch")
"""Features of `batch_features` that tell how the batch was shuffled."""


def batch_features(masks: np.ndarray) -> Mapping[str, float]:
    """Describe the masks of one batch, as official's collate draws them (`dinov2/data/collate.py:20-36`).

    Args:
        masks: bool (R, H, W), one for each global crop, all False where a crop is not masked.

    Returns:
        By name in words: shares in 0 to 1, counts in patches per masked crop, and `stretch`, the mean over connected
        blocks of how many times the longer side of their bounding box is as long as the shorter, in powers of e. NaN
        where no crop is masked, and for what needs two masked crops.
    """
    counts = masks.sum((1, 2))
    rows = np.flatnonzero(counts)
    masked, counts = masks[rows], counts[rows]
    few = len(rows) < 2
    some = {
        "share of crops that are masked": len(rows) / len(masks),
        "patches per masked crop": float(counts.mean()) if len(rows) else math.nan,
        "spread of the patches": math.nan if few else float(counts.std(ddof=1)),
        "fewest patches": float(counts.min(initial=masks[0].size)) if len(rows) else math.nan,
        "most patches": float(counts.max(initial=0)) if len(rows) else math.nan,
        PLACES[0]: float(rows.mean() / max(len(masks) - 1, 1)) if len(rows) else math.nan,
        PLACES[1]: math.nan if few or not np.ptp(counts) else float(np.corrcoef(rows, counts)[0, 1]),
    }
    return {**some, **_shape(masked)}


def _shape(masks: np.ndarray) -> dict[str, float]:
    """Where the masked patches of (M, H, W) lie, and in what blocks."""
    names = ("row", "column", "masked patches at the border", "masked neighbours", "blocks", "block size", "stretch")
    if not len(masks):
        return dict.fromkeys(names, math.nan)
    _, ys, xs = np.nonzero(masks)
    _, height, width = masks.shape
    border = (ys == 0) | (ys == height - 1) | (xs == 0) | (xs == width - 1)
    pairs = [(masks[:, 1:], masks[:, :-1]), (masks[:, :, 1:], masks[:, :, :-1])]
    # Each pair of neighbours is seen from both its patches.
    touched = sum(int(a.sum() + b.sum()) for a, b in pairs)
    together = sum(2 * int((a & b).sum()) for a, b in pairs)
    within = ndimage.generate_binary_structure(3, 1)
    within[0] = within[2] = False  # blocks do not reach from one mask to the next
    labels, count = ndimage.label(masks, within)
    boxes = [[axis.stop - axis.start for axis in box[1:]] for box in ndimage.find_objects(labels)]
    stretch = np.abs(np.diff(np.log(np.array(boxes)), axis=1))
    values = (
        float((ys / max(height - 1, 1)).mean()),
        float((xs / max(width - 1, 1)).mean()),
        float(border.mean()),
        together / touched if touched else math.nan,
        count / len(masks),
        len(ys) / count,
        float(stretch.mean()),
    )
    return dict(zip(names, values, strict=True))
