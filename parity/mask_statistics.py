"""What a mask looks like, in numbers that a person can read: coverage, overshoot, blocks and their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["FEATURES", "components", "mask_features"]

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
    remaining = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    found = []
    while remaining:
        frontier = [remaining.pop()]
        member = list(frontier)
        while frontier:
            row, column = frontier.pop()
            for neighbour in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if neighbour in remaining:
                    remaining.remove(neighbour)
                    frontier.append(neighbour)
                    member.append(neighbour)
        found.append(np.array(member))
    return found


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
