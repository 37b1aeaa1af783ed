from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from migrations.document import masking
from migrations.document.masking import BlockMaskGenerator, generate_block_masks


class Script:
    """Stands for Python's `random`: areas and corners as told, every rectangle square."""

    def __init__(self, areas: list[float], corners: list[int]) -> None:
        self._areas = iter(areas)
        self._corners = iter(corners)
        self.budgets: list[float] = []

    def uniform(self, low: float, high: float) -> float:
        """The next area, or the logarithm of an aspect ratio of 1."""
        if low < 0:
            return 0.0
        self.budgets.append(high)
        return next(self._areas)

    def randint(self, low: int, high: int) -> int:
        """The next top or left."""
        return next(self._corners)


def scripted(monkeypatch: pytest.MonkeyPatch, areas: list[float], corners: list[int]) -> Script:
    """Have the generator draw these areas and corners."""
    script = Script(areas, corners)
    monkeypatch.setattr(masking, "random", script)
    return script


def draws(target: int, seed: int = 0, times: int = 2000) -> Iterator[int]:
    """Sizes of masks on a 14 x 14 grid."""
    random.seed(seed)
    generator = BlockMaskGenerator((14, 14))
    return (int(generator(target).sum()) for _ in range(times))


@pytest.mark.parametrize(
    ("target", "mean", "p99", "over"),
    [(19, 25.1, 36, 0.958), (58, 72.8, 103, 0.960), (98, 113.2, 150, 0.957)],
)
def test_masks_overshoot_their_target(target: int, mean: float, p99: float, over: float) -> None:
    """The audit's table of 2,000 masks per target; official's never exceed it, with means 18.9, 57.9, 97.9."""
    sizes = np.array(list(draws(target)))
    assert sizes.mean() == pytest.approx(mean, rel=0.02)
    assert np.percentile(sizes, 99) == pytest.approx(p99, rel=0.03)
    assert (sizes > target).mean() == pytest.approx(over, abs=0.015)
    assert not (sizes < target).any()


def test_a_second_rectangle_spends_the_budget_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budget 5: a rectangle of 4 leaves 1, and yet another 4 go in; official stops at the first."""
    script = scripted(monkeypatch, areas=[4.0, 4.0], corners=[0, 0, 3, 3])
    mask = np.zeros((6, 6), dtype=bool)
    assert BlockMaskGenerator((6, 6))._mask(mask, 5) == 8
    assert int(mask.sum()) == 8
    assert script.budgets == [5, 5]


def test_overlap_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rectangles of 4 that share a corner add 7 patches; the third, which lies on them, adds none."""
    scripted(monkeypatch, areas=[4.0, 4.0, 4.0, 9.0], corners=[0, 0, 1, 1, 0, 0, 2, 2])
    mask = np.zeros((6, 6), dtype=bool)
    # 4 + 3, then 0 (refused), then 9 - 1.
    assert BlockMaskGenerator((6, 6))._mask(mask, 10) == 15
    assert int(mask.sum()) == 15


def test_a_rectangle_larger_than_the_budget_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding can make 9 patches of an area of 8; with a budget of 8 they do not go in."""
    scripted(monkeypatch, areas=[8.0] * 10, corners=[0] * 20)
    assert BlockMaskGenerator((6, 6))._mask(np.zeros((6, 6), dtype=bool), 8) == 0


def test_nothing_caps_a_rectangle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rectangle may cover 144 of 196 patches, where official stops at half the grid."""
    scripted(monkeypatch, areas=[144.0], corners=[0, 0])
    assert int(BlockMaskGenerator((14, 14))(144).sum()) == 144


def test_no_rectangle_spans_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Height and width stay below the grid's, as in official (Q27): the ten attempts find no place."""
    scripted(monkeypatch, areas=[36.0] * 10, corners=[])
    assert int(BlockMaskGenerator((6, 6))(36).sum()) == 0


def test_masks_are_flat() -> None:
    """One row of H * W booleans, where official returns (H, W)."""
    mask = BlockMaskGenerator((4, 6))(0)
    assert (mask.shape, mask.dtype) == ((24,), np.dtype(bool))


def test_a_number_is_a_square_grid() -> None:
    """One number stands for both sides."""
    assert BlockMaskGenerator(7).num_patches == 49


def test_aspect_ratios_are_symmetric() -> None:
    """From 0.3 to 1 / 0.3, in logarithms; the upper end may be given."""
    low, high = BlockMaskGenerator(7).log_aspect_ratio
    assert (np.exp(low), np.exp(high)) == pytest.approx((0.3, 1 / 0.3))
    assert np.exp(BlockMaskGenerator(7, max_aspect=2.0).log_aspect_ratio[1]) == pytest.approx(2.0)


@pytest.mark.parametrize("target", [-1, 50])
def test_targets_off_the_grid_are_refused(target: int) -> None:
    """A 7 x 7 grid holds 0 to 49."""
    with pytest.raises(ValueError, match=f"num_masking_patches is {target}, expected 0 to 49"):
        BlockMaskGenerator(7)(target)


@pytest.mark.parametrize(("images", "masked"), [(1, 0), (2, 1), (3, 1), (5, 2), (16, 8)])
def test_half_the_images_of_a_crop_are_masked_rounded_down(images: int, masked: int) -> None:
    """One crop of one image is never masked, so the document's iBOT loss of one image is 0."""
    random.seed(0)
    masks, _ = generate_block_masks(images, 14, 14)
    assert masks.shape == (images, 196)
    assert int(masks.any(dim=1).sum()) == masked


def test_weights_are_one_per_image() -> None:
    """One over the masked patches, and 0 where there are none."""
    random.seed(0)
    masks, weights = generate_block_masks(8, 14, 14)
    expected = [1 / n if n else 0.0 for n in masks.sum(dim=1).tolist()]
    assert weights.tolist() == pytest.approx(expected)
    assert (weights.shape, weights.dtype) == ((8,), torch.float32)


def test_masked_images_are_shuffled() -> None:
    """Over 20 batches every one of four images is masked at some time."""
    random.seed(0)
    seen = torch.stack([generate_block_masks(4, 14, 14)[0].any(dim=1) for _ in range(20)])
    assert seen.any(dim=0).tolist() == [True] * 4
    assert seen.sum(dim=1).tolist() == [2] * 20


def test_ratios_and_probability_are_arguments() -> None:
    """With probability 1 and ratios 0.5 to 0.5 each of the images is asked for half the grid."""
    random.seed(0)
    masks, _ = generate_block_masks(4, 14, 14, 0.5, 0.5, 1.0)
    assert int(masks.sum(dim=1).min()) >= 98


def test_an_empty_batch_is_refused() -> None:
    """There is nothing to stack."""
    with pytest.raises(ValueError, match="batch_size is 0"):
        generate_block_masks(0, 14, 14)


def test_draws_come_from_python_s_random() -> None:
    """The same seed gives the same masks, and torch's generator is left where it was."""
    state = torch.get_rng_state()
    results = []
    for _ in range(2):
        random.seed(5)
        results.append(generate_block_masks(6, 14, 14)[0])
    assert torch.equal(*results)
    assert torch.equal(torch.get_rng_state(), state)
