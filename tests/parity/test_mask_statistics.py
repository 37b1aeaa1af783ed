from __future__ import annotations

import math

import numpy as np
import pytest

from parity.mask_statistics import FEATURES, components, mask_features


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
