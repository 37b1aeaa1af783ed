from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from migrations.document import DocumentStack
from migrations.document.collate import collate, mask_counts
from port.config import load_recipe
from port.losses import iBOTPatchLoss

RATIOS = (0.1, 0.5)


def config() -> DictConfig:
    """A grid of 14 x 14, from small crops."""
    return load_recipe("vitl16_short", ["crops.global_crops_size=28", "student.patch_size=2"])


def sample(image: int, n_global: int = 2) -> dict[str, list[Tensor]]:
    """Crops that are constant: 100 * image + view for global ones, minus that for local ones."""
    return {
        "global_crops": [torch.full((3, 28, 28), 100.0 * image + view) for view in range(n_global)],
        "local_crops": [torch.full((3, 8, 8), -100.0 * image - view) for view in range(2)],
    }


def values(crops: Tensor) -> list[float]:
    """The constants of constant crops."""
    return [float(crop[0, 0, 0]) for crop in crops]


@pytest.mark.parametrize(("images", "masked"), [(1, 0), (3, 2), (5, 4), (8, 8)])
def test_rows_masked_per_batch(images: int, masked: int) -> None:
    """0, 2 and 4 rows for 1, 3 and 5 images, where official masks 1, 3 and 5."""
    counts = mask_counts(2 * images, 196, RATIOS, 0.5)
    assert len(counts) == 2 * images
    assert sum(count > 0 for count in counts) == masked


def test_counts_by_hand() -> None:
    """Two images at probability 1: bins 0.1 to 0.3 and 0.3 to 0.5, then the shuffle, then crop 2."""
    random.seed(11)
    first, second = random.random(), random.random()
    random.shuffle([0, 1])
    third, fourth = random.random(), random.random()
    expected = [
        int(196 * (low + 0.2 * draw)) for low, draw in [(0.1, first), (0.3, second), (0.1, third), (0.3, fourth)]
    ]
    random.seed(11)
    assert mask_counts(4, 196, RATIOS, 1.0) == expected


def test_unmasked_rows_follow_the_masked_ones_of_their_crop() -> None:
    """Before the shuffle each crop has its masked rows first."""
    counts = mask_counts(8, 196, RATIOS, 0.5)
    assert [count > 0 for count in counts] == [True, True, False, False] * 2


def test_bins_are_float64() -> None:
    """`random.seed(47478)`, 16 bins, bin 4: 39 patches, where official's float32 bins ask for 40."""
    random.seed(47478)
    counts = mask_counts(32, 196, RATIOS, 1.0)
    random.seed(47478)
    draws = [random.random() for _ in range(16)]
    bins = torch.linspace(*RATIOS, 17)
    in_float32 = [int(196 * (bins[i] + (bins[i + 1] - bins[i]) * draws[i])) for i in range(16)]
    assert (counts[4], in_float32[4]) == (39, 40)
    assert [i for i in range(16) if counts[i] != in_float32[i]] == [4]


def test_one_draw_falls_on_either_side_of_a_patch() -> None:
    """`random.seed(30607)`, first draw, bin 4 of 16: 39 patches in float64 and official's 40 in float32."""
    low, high = np.linspace(*RATIOS, 17)[4:6]
    random.seed(30607)
    in_float32 = int(196 * random.uniform(*torch.linspace(*RATIOS, 17)[4:6]))
    random.seed(30607)
    # One image per crop has one bin, from the first ratio to the second.
    in_float64 = mask_counts(2, 196, (float(low), float(high)), 1.0)[0]
    assert (in_float64, in_float32) == (39, 40)


def test_odd_rows_are_refused() -> None:
    """Every image has two global crops."""
    with pytest.raises(ValueError, match="n_rows is 3, expected an even number"):
        mask_counts(3, 196, RATIOS, 0.5)


def test_collate_orders_rows_by_view() -> None:
    """All first crops, then all second ones, and likewise the local ones."""
    batch = collate([sample(1), sample(2)], config(), torch.float32)
    assert isinstance(batch["collated_global_crops"], Tensor)
    assert isinstance(batch["collated_local_crops"], Tensor)
    assert values(batch["collated_global_crops"]) == [100, 200, 101, 201]
    assert values(batch["collated_local_crops"]) == [-100, -200, -101, -201]


def test_collate_derives_official_s_keys_from_its_masks() -> None:
    """Indices are those of the masked tokens of all 2B rows, and their number is counted."""
    random.seed(0)
    batch = collate([sample(i) for i in range(4)], config(), torch.half)
    masks, indices = batch["collated_masks"], batch["mask_indices_list"]
    assert isinstance(masks, Tensor)
    assert isinstance(indices, Tensor)
    assert isinstance(batch["n_masked_patches"], Tensor)
    rebuilt = torch.zeros(8 * 196, dtype=torch.bool)
    rebuilt[indices] = True
    assert torch.equal(rebuilt.view(8, 196), masks)
    assert batch["n_masked_patches"].tolist() == [len(indices)]


def test_each_crop_has_as_many_masked_rows_in_every_batch() -> None:
    """The share of masked rows in crop 1 never varies; official's has a standard deviation of 0.13."""
    random.seed(0)
    images = [sample(i) for i in range(8)]
    for _ in range(20):
        masks = collate(images, config(), torch.float32)["collated_masks"]
        assert isinstance(masks, Tensor)
        assert masks[:8].any(dim=1).sum() == masks[8:].any(dim=1).sum() == 4


def test_upperbound_is_official_s_sum_over_the_bins() -> None:
    """Four images: per crop bins that end at 0.3 and 0.5 of 196, so 2 * (58 + 98)."""
    assert collate([sample(i) for i in range(4)], config(), torch.float32)["upperbound"] == 312


def test_masks_overflow_the_buffer_in_every_batch() -> None:
    """With 32 images the masked tokens exceed `upperbound` in 20 batches of 20; official's never do."""
    random.seed(0)
    images = [sample(i) for i in range(32)]
    overflows = 0
    for _ in range(20):
        batch = collate(images, config(), torch.float32)
        assert isinstance(batch["mask_indices_list"], Tensor)
        assert isinstance(batch["upperbound"], int)
        overflows += len(batch["mask_indices_list"]) > batch["upperbound"]
    assert overflows == 20


def test_weights_break_an_ibot_loss_over_flat_tokens() -> None:
    """One weight per row cannot multiply one loss per token."""
    random.seed(0)
    batch = collate([sample(i) for i in range(4)], config(), torch.float32)
    masks, weights = batch["collated_masks"], batch["masks_weight"]
    assert isinstance(masks, Tensor)
    assert isinstance(weights, Tensor)
    assert weights.shape == (8,)
    tokens = torch.full((int(masks.sum()), 5), 0.2)
    with pytest.raises(RuntimeError, match="must match the size"):
        iBOTPatchLoss(5).forward_masked(tokens, tokens, masks, masks_weight=weights)


def test_collate_is_the_stack_s() -> None:
    """The stack offers the same batch."""
    images = [sample(i) for i in range(3)]
    random.seed(2)
    batch = collate(images, config(), torch.float32)
    random.seed(2)
    offered = DocumentStack().collate(images, config(), torch.float32)
    assert offered.keys() == batch.keys()
    for key in ("collated_masks", "masks_weight"):
        assert torch.equal(torch.as_tensor(offered[key]), torch.as_tensor(batch[key]))


@pytest.mark.parametrize("n_global", [1, 3])
def test_a_third_view_is_refused(n_global: int) -> None:
    """Section 2 leaves two global crops."""
    with pytest.raises(ValueError, match=rf"samples\[1\] has {n_global} global crops, expected 2"):
        collate([sample(0), sample(1, n_global)], config(), torch.float32)


def test_an_empty_batch_is_refused() -> None:
    """There is nothing to stack."""
    with pytest.raises(ValueError, match="samples is empty"):
        collate([], config(), torch.float32)
