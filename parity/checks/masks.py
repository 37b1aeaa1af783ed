"""Family `masks`: the block mask generator, bit for bit under a shared seed, and what its masks look like."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parity.attribution.masks import attribute_counts, attribute_masks
from parity.checks.base import Check, Context, Observation
from parity.compare import exact
from parity.mask_statistics import FEATURES, mask_features
from parity.results import Comparison, Exhibit
from parity.seeding import seeded

__all__ = ["CHECKS", "GRIDS", "as_grid"]

GRIDS: tuple[tuple[int, int], ...] = (
    (14, 14), (16, 16), (37, 37), (7, 7), (6, 6), (7, 5), (3, 11), (16, 9), (1, 8), (2, 2), (10, 23),
)  # fmt: skip
"""Grids of official recipes (14², 16², 37², 7²) and odd, non-square and tiny ones."""

_SAMPLE = 100
_RATIOS = (0.0, 0.02, 0.1, 0.25, 0.37, 0.5, 0.65, 0.9)
# (seed, crops, patches): about 3 draws in a million part, so these were searched for.
_BOUNDARY_CASES = (
    (2077, 64, 196),
    (6490, 64, 196),
    (30607, 64, 196),
    (526517, 32, 196),
    (3942, 64, 256),
    (585832, 32, 256),
    (2719, 64, 1369),
    (174320, 32, 1369),
)


def _bitwise(context: Context) -> Iterator[Observation]:
    """The same seed gives the same mask and leaves the generator at the same place."""
    picture: tuple[int, Any, Any, str] | None = None
    for grid, ratio, seed in _cases(context.seeds):
        comparison, reference, subject = _one(context, grid, ratio, seed)
        worth = _worth_showing(grid, ratio, differ=reference != subject)
        if not comparison.passed and (picture is None or worth > picture[0]):
            picture = worth, reference, subject, comparison.name
        yield comparison
    if picture is not None:
        _, reference, subject, name = picture
        grid, asked = GRIDS[0], 58
        features = [_features(stack, grid, asked, _SAMPLE) for stack in (context.reference, context.subject)]
        yield from attribute_masks(asked, *features)
        yield Exhibit(
            "masks",
            f"the same seed, two generators ({name})",
            ({"title": "official", "mask": reference}, {"title": "subject", "mask": subject}),
        )


def _worth_showing(grid: tuple[int, int], ratio: float, *, differ: bool) -> int:
    """How good a picture two masks make.

    Best are masks that differ (equal ones may fail by the generator's state alone) on the usual grid, neither nearly
    empty nor nearly full.
    """
    return 2 * differ + (grid == GRIDS[0] and 0.2 < ratio < 0.6)


def _cases(seeds: int) -> Iterator[tuple[tuple[int, int], float, int]]:
    """Spread `seeds` cases over grids and ratios; half of them on the grid of the default recipe."""
    for seed in range(seeds):
        grid = GRIDS[0] if seed % 2 else GRIDS[(seed // 2) % len(GRIDS)]
        yield grid, _RATIOS[seed % len(_RATIOS)], seed


def _one(
    context: Context, grid: tuple[int, int], ratio: float, seed: int
) -> tuple[Comparison, list[list[bool]], list[list[bool]]]:
    height, width = grid
    asked = int(ratio * height * width)
    drawn = []
    for stack in (context.reference, context.subject):
        seeded(seed)
        mask = as_grid(stack.make_mask(grid, asked, 0.5 * height * width), grid)
        drawn.append((mask, random.random()))
    (left, left_next), (right, right_next) = drawn
    name = f"mask/{height}x{width}/{asked} patches/seed {seed}"
    comparison = exact(name, left, right)
    if comparison.passed and left_next != right_next:
        comparison = exact(name, left_next, right_next, note="equal masks, but another number of random draws")
    return comparison, left.tolist(), right.tolist()


def as_grid(mask: Any, grid: tuple[int, int]) -> np.ndarray:
    """Return a mask as a bool array (H, W), from a tensor or array of (H, W), (H*W,) or (1, H*W)."""
    array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
    return array.astype(bool).reshape(grid)


def _distribution(context: Context) -> Iterator[Observation]:
    """Counts, overshoot, block area, aspect and position over many masks of each stack."""
    grid = (14, 14)
    count = max(context.seeds // 8, 100)
    rows: list[dict[str, Any]] = []
    for asked in (19, 58, 98):
        reference, subject = (_features(stack, grid, asked, count) for stack in (context.reference, context.subject))
        for feature in FEATURES:
            yield exact(f"distribution/{asked} patches/{feature}", reference[feature], subject[feature])
        for stack_name, values in (("official", reference), ("subject", subject)):
            rows.append({"asked": asked, "stack": stack_name, **{k: f"{values[k]:.3g}" for k in FEATURES}})
        yield from attribute_masks(asked, reference, subject)
    yield Exhibit("table", f"what {count} masks look like on a 14 x 14 grid", tuple(rows))


def _features(stack: Any, grid: tuple[int, int], asked: int, count: int) -> Mapping[str, float]:
    """Summarise `count` masks that a stack draws one after the other from one seed."""
    seeded(asked)
    cap = 0.5 * grid[0] * grid[1]
    return mask_features([as_grid(stack.make_mask(grid, asked, cap), grid) for _ in range(count)], asked)


def _counts(context: Context) -> Iterator[Observation]:
    """How many patches are asked for each crop, in float32 as official computes it."""
    first = None
    for seed in range(context.seeds):
        rows = (2, 4, 6, 8, 10, 16, 32, 64)[seed % 8]
        tokens = (196, 256, 1369, 49, 35)[seed % 5]
        ratios, share = ((0.1, 0.5), 0.5) if seed % 2 else ((0.15, 0.65), (0.3, 0.77, 1.0)[seed % 3])
        asked = []
        for stack in (context.reference, context.subject):
            seeded(seed)
            asked.append([int(v) for v in stack.mask_counts(rows, tokens, ratios, share)])
        name = f"counts/{rows} crops of {tokens} patches, {share:.0%} masked/seed {seed}"
        comparison = exact(name, asked[0], asked[1])
        yield comparison
        if not comparison.passed and first is None:
            first = comparison
    yield from _float32_bins(context)
    if first is not None:
        yield from attribute_counts(context.subject, first)


def _float32_bins(context: Context) -> Iterator[Observation]:
    """Draws chosen so that float64 bins ask for another number of patches than official's float32 ones."""
    for seed, rows, tokens in _BOUNDARY_CASES:
        asked = []
        for stack in (context.reference, context.subject):
            seeded(seed)
            asked.append([int(v) for v in stack.mask_counts(rows, tokens, (0.1, 0.5), 0.5)])
        yield exact(f"counts/float32 boundary/{rows} crops of {tokens} patches/seed {seed}", asked[0], asked[1])


_MASKING = ("dinov2/data/masking.py:49-86",)

CHECKS = (
    Check(
        "masks.bitwise",
        "L1",
        "the mask of every seed, grid and ratio, and the generator's state after it",
        _MASKING,
        ("make_mask",),
        _bitwise,
        draws=("make_mask",),
    ),
    Check(
        "masks.distribution",
        "L1",
        "mask statistics: count, overshoot, components, block area, aspect, position",
        _MASKING,
        ("make_mask",),
        _distribution,
        draws=("make_mask",),
    ),
    Check(
        "masks.counts",
        "L1",
        "patches asked for each crop: share of masked crops, ratio bins, float32 arithmetic",
        ("dinov2/data/collate.py:20-32",),
        ("mask_counts",),
        _counts,
        draws=("mask_counts",),
    ),
)
