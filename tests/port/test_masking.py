from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from port.data import MaskingGenerator, max_num_patches

# Drawn by official dinov2/data/masking.py: MaskingGenerator((6, 8), max_num_patches=24.0)(16).
OFFICIAL_SEED_0 = [
    "........",
    "###.....",
    "###.....",
    "###.....",
    "###.....",
    "###.....",
]
OFFICIAL_SEED_3 = [
    "......##",
    ".....###",
    "....####",
    "....###.",
    "....###.",
    "......#.",
]
grids = st.tuples(st.integers(1, 20), st.integers(1, 20))


def drawn(mask: NDArray[np.bool_]) -> list[str]:
    """Return the mask as text, one string per row."""
    return ["".join("#" if masked else "." for masked in row) for row in mask]


@pytest.mark.parametrize(
    ("seed", "expected", "next_random"),
    [(0, OFFICIAL_SEED_0, 0.8280632784038988), (3, OFFICIAL_SEED_3, 0.6390681405441619)],
)
def test_masks_are_official_s_under_the_same_seed(seed: int, expected: list[str], next_random: float) -> None:
    """A seed gives official's mask and leaves `random` in official's state."""
    random.seed(seed)
    mask = MaskingGenerator((6, 8), max_num_patches=24.0)(16)
    assert drawn(mask) == expected
    assert random.random() == next_random


def test_a_wider_mask_is_official_s() -> None:
    """58 of 14 x 14 patches at seed 1: official masks exactly 58, with these row counts."""
    random.seed(1)
    mask = MaskingGenerator((14, 14), max_num_patches=98.0)(58)
    assert mask.sum(axis=1).tolist() == [0, 2, 2, 2, 2, 5, 0, 8, 8, 8, 7, 5, 6, 3]
    assert random.random() == 0.022322111021323865


@given(grid=grids, count=st.integers(0, 500), cap=st.floats(1, 400), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_a_mask_never_exceeds_what_is_asked(grid: tuple[int, int], count: int, cap: float, seed: int) -> None:
    """Whatever the grid and the cap: the shape is the grid's, and at most `count` patches are masked."""
    random.seed(seed)
    mask = MaskingGenerator(grid, max_num_patches=cap)(count)
    assert mask.shape == grid
    assert mask.dtype == np.bool_
    assert mask.sum() <= min(count, grid[0] * grid[1])


def test_a_mask_falls_short_rarely_and_by_little() -> None:
    """Q26: at 58 of 196 patches official misses 7 masks in 100, by 6 patches at most in thousands."""
    generator = MaskingGenerator((14, 14), max_num_patches=98.0)
    random.seed(0)
    deficits = [58 - int(generator(58).sum()) for _ in range(300)]
    assert 0 < sum(deficit > 0 for deficit in deficits) < 45
    assert max(deficits) <= 6


@pytest.mark.parametrize("side", [2, 3, 7])
def test_no_block_spans_the_grid(side: int) -> None:
    """Q27: the comparison is strict, so one block as large as the grid cannot be placed."""
    random.seed(0)
    area = side * side
    generator = MaskingGenerator(side, min_num_patches=area, max_num_patches=area, min_aspect=0.99)
    assert not generator(area).any()


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (7, 1)])
def test_a_grid_one_patch_wide_has_no_block(grid: tuple[int, int]) -> None:
    """A height or width below 1 leaves no block, so the mask stays empty instead of looping for ever."""
    random.seed(0)
    assert not MaskingGenerator(grid, max_num_patches=3)(grid[0] * grid[1]).any()


def test_a_refused_shape_draws_no_position() -> None:
    """On a 1 x 1 grid an attempt draws area and aspect only: ten attempts are twenty numbers."""
    random.seed(5)
    MaskingGenerator(1, max_num_patches=3)(1)
    after = random.random()
    random.seed(5)
    for _ in range(20):
        random.random()
    assert after == random.random()


def test_zero_patches_draw_nothing() -> None:
    """An unmasked crop costs no random number."""
    random.seed(0)
    state = random.getstate()
    assert not MaskingGenerator(14, max_num_patches=98)(0).any()
    assert random.getstate() == state


def test_one_number_is_a_square_grid() -> None:
    """`input_size` 5 means 5 x 5."""
    assert MaskingGenerator(5).get_shape() == (5, 5)


def test_num_masking_patches_bounds_blocks_where_no_bound_is_given() -> None:
    """`max_num_patches` defaults to `num_masking_patches`, as in official code."""
    assert MaskingGenerator(5, num_masking_patches=9).max_num_patches == 9
    assert MaskingGenerator(5, num_masking_patches=9, max_num_patches=7.5).max_num_patches == 7.5


def test_no_bound_at_all_is_an_error_with_the_remedy() -> None:
    """Official fails with a TypeError about None; here the message says what to pass."""
    with pytest.raises(ValueError, match="pass max_num_patches="):
        MaskingGenerator(5)(4)


def test_repr_shows_grid_block_and_aspect() -> None:
    """The text names what a mask is drawn with; official's own fails where num_masking_patches is None."""
    text = "MaskingGenerator(4 x 6 patches, blocks of 4 to 12.0 patches, aspect 0.300 to 3.333)"
    assert repr(MaskingGenerator((4, 6), max_num_patches=12.0)) == text


@pytest.mark.parametrize(
    ("img_size", "patch_size", "expected"),
    [(224, 14, 128.0), (224, 16, 98.0), (518, 14, 666.0), (112, 16, 21.0), (98, 14, 21.0), (96, 16, 18.0)],
)
def test_the_cap_is_floored_on_the_way(img_size: int, patch_size: int, expected: float) -> None:
    """Q3: half the grid for even grids, less for odd ones (518/14: 666, not 684.5)."""
    assert max_num_patches(img_size, patch_size) == expected
