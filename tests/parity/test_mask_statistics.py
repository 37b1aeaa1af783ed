from __future__ import annotations

import math

import numpy as np
import pytest

from parity.mask_statistics import FEATURES, PLACES, batch_features, components, mask_features


def drawn(*rows: str) -> np.ndarray:
    """A mask drawn by hand: # is masked."""
    return np.array([[cell == "#" for cell in row] for row in rows])


def _sizes(mask: np.ndarray) -> list[int]:
    return sorted(len(part) for part in components(mask))


@pytest.mark.parametrize(
    ("mask", "sizes"),
    [
        (drawn("....", "...."), []),
        (drawn("####", "####"), [8]),
        (drawn("#...", "...#"), [1, 1]),
        (drawn("#.", ".#"), [1, 1]),
        (drawn("##.#", ".#.#", "...#"), [3, 3]),
        (drawn("###", "#.#", "###"), [8]),
        (drawn("#.#.#", "#####"), [8]),
    ],
)
def test_components_are_4_connected(mask: np.ndarray, sizes: list[int]) -> None:
    """Diagonal neighbours are apart, rings and combs are whole."""
    assert _sizes(mask) == sizes


def test_components_hold_the_masked_places_once() -> None:
    """Together the parts are the mask."""
    mask = np.random.default_rng(0).random((9, 7)) < 0.5
    again = np.zeros_like(mask)
    for part in components(mask):
        assert not again[tuple(part.T)].any()
        again[tuple(part.T)] = True
    assert np.array_equal(again, mask)


def test_features_of_two_masks_drawn_by_hand() -> None:
    """A 2 x 1 block at the top left, and a 1 x 3 row with a single patch at the bottom: sums done by hand."""
    first = drawn("#...", "#...", "....", "....")
    second = drawn("....", "....", "###.", "...#")
    features = mask_features([first, second], asked=3)
    assert tuple(features) == FEATURES
    assert features["mean"] == 3.0
    assert features["max"] == 4.0
    assert features["over"] == 0.5
    assert features["under"] == 0.5
    assert features["components"] == 1.5
    assert features["area"] == 2.0
    # Aspects 2, 1/3 and 1: geometric mean (2/3) ** (1/3).
    assert features["aspect"] == pytest.approx((2 / 3) ** (1 / 3), rel=1e-14)
    # Rows 0, 1, 2, 2, 2, 3 and columns 0, 0, 0, 1, 2, 3 of 4.
    assert features["row"] == pytest.approx(10 / 6 / 4, rel=1e-14)
    assert features["column"] == pytest.approx(6 / 6 / 4, rel=1e-14)


def test_exactly_the_target_is_neither_over_nor_under() -> None:
    """Two patches of two asked."""
    features = mask_features([drawn("##", "..")], asked=2)
    assert (features["over"], features["under"]) == (0.0, 0.0)


def test_position_is_a_share_of_the_own_side() -> None:
    """On a 2 x 5 grid, column 4 is 4/5 of the width and row 1 half of the height."""
    features = mask_features([drawn(".....", "....#")], asked=1)
    assert (features["row"], features["column"]) == (0.5, 0.8)


def test_transposition_swaps_aspect_and_position() -> None:
    """A transposed grid, one of the known faults, shows in three numbers and in no other."""
    mask = drawn("###.", "....", "....", "....")
    upright, turned = (mask_features([m], asked=3) for m in (mask, mask.T))
    assert math.log(upright["aspect"]) == pytest.approx(-math.log(turned["aspect"]))
    assert (upright["row"], upright["column"]) == (turned["column"], turned["row"])
    same = set(FEATURES) - {"aspect", "row", "column"}
    assert all(upright[name] == turned[name] for name in same)


def test_empty_masks_have_neutral_features() -> None:
    """Masks of nothing: no components, middle position, square aspect; no NaN."""
    features = mask_features([drawn("..", "..")] * 3, asked=1)
    assert features == {
        "mean": 0.0,
        "max": 0.0,
        "over": 0.0,
        "under": 1.0,
        "components": 0.0,
        "area": 0.0,
        "aspect": 1.0,
        "row": 0.5,
        "column": 0.5,
    }


EMPTY = drawn("....", "....", "....", "....")


def test_features_of_a_batch_drawn_by_hand() -> None:
    """Four crops on a 4 x 4 grid: a 2 x 2 block at the top left, nothing, nothing, a 1 x 3 row and a patch apart."""
    block = drawn("##..", "##..", "....", "....")
    pieces = drawn("....", ".###", "....", "#...")
    found = batch_features(np.stack([block, EMPTY, EMPTY, pieces]))
    expected = {
        "share of crops that are masked": 2 / 4,
        "patches per masked crop": 4,
        "spread of the patches": 0,
        "fewest patches": 4,
        "most patches": 4,
        PLACES[0]: 1.5 / 3,  # rows 0 and 3 of 0 to 3
        "row": (0 + 0 + 1 + 1 + 1 + 1 + 1 + 3) / 8 / 3,
        "column": (0 + 1 + 0 + 1 + 1 + 2 + 3 + 0) / 8 / 3,
        "masked patches at the border": (3 + 2) / 8,  # all but (1, 1) of the block, and (1, 3) and (3, 0)
        # The block's four pairs and the row's two are seen from both ends, 12 times. Patches at a corner have 2
        # neighbours, at a side 3, inside 4: the block's 2 + 3 + 3 + 4, the pieces' 4 + 4 + 3 and 2.
        "masked neighbours": 12 / (12 + 13),
        "blocks": 3 / 2,
        "block size": 8 / 3,
        "stretch": (0 + math.log(3) + 0) / 3,
    }
    assert math.isnan(found[PLACES[1]])  # equal counts have no order
    assert {name: value for name, value in found.items() if name != PLACES[1]} == pytest.approx(expected)


def test_blocks_do_not_reach_into_the_next_mask() -> None:
    """The same patch masked in two crops is two blocks of one."""
    patch = drawn("#...", "....", "....", "....")
    found = batch_features(np.stack([patch, patch]))
    assert (found["blocks"], found["block size"], found["masked neighbours"]) == (1, 1, 0)


def test_counts_of_a_batch_by_hand() -> None:
    """One, two and three patches, in this order after two crops without: mean 2, spread 1, rows 2 to 4 of 0 to 4."""
    masks = [drawn("#...", "....", "....", "...."), drawn("##..", "....", "....", "....")]
    masks.append(drawn("###.", "....", "....", "...."))
    found = batch_features(np.stack([EMPTY, EMPTY, *masks]))
    names = ("patches per masked crop", "spread of the patches", "fewest patches", "most patches", *PLACES)
    assert [found[name] for name in names] == pytest.approx([2, 1, 1, 3, 3 / 4, 1])
    assert batch_features(np.stack(masks[::-1]))[PLACES[1]] == pytest.approx(-1)


def test_a_batch_without_masks_lacks_all_but_its_share() -> None:
    """Nothing masked: a share of 0, NaN for the rest, no warning; one masked crop has no spread."""
    found = dict(batch_features(np.stack([EMPTY, EMPTY])))
    assert found.pop("share of crops that are masked") == 0
    assert all(math.isnan(value) for value in found.values())
    one = batch_features(np.stack([EMPTY, ~EMPTY]))
    assert math.isnan(one["spread of the patches"])
    assert (one["blocks"], one["most patches"], one["masked neighbours"]) == (1, 16, 1)


def test_a_batch_has_the_same_features_whatever_it_holds() -> None:
    """So that a batch without masks lines up with the others."""
    assert list(batch_features(np.stack([EMPTY]))) == list(batch_features(np.stack([~EMPTY])))


def test_a_single_patch_grid_has_no_neighbours() -> None:
    """1 x 1: positions are 0, and there is nobody to be masked together with."""
    found = batch_features(np.ones((2, 1, 1), dtype=bool))
    assert (found["row"], found["column"], found["blocks"]) == (0, 0, 1)
    assert math.isnan(found["masked neighbours"])
