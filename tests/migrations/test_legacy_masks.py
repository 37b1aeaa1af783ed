from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from migrations.legacy import LegacyStack
from migrations.legacy.masks import collate, generate_random_token_masks, third_view_masks
from port.config import load_recipe


def config() -> DictConfig:
    """A grid of 4 x 4."""
    return load_recipe("vitl16_short", ["crops.global_crops_size=64"])


def sample(image: int, n_global: int, n_local: int = 2) -> dict[str, list[Tensor]]:
    """Crops that are constant: 100 * image + view for global ones, minus that for local ones."""
    return {
        "global_crops": [torch.full((3, 64, 64), 100.0 * image + view) for view in range(n_global)],
        "local_crops": [torch.full((3, 32, 32), -100.0 * image - view) for view in range(n_local)],
    }


def values(crops: Tensor) -> list[float]:
    """The constants of constant crops."""
    return [float(crop[0, 0, 0]) for crop in crops]


def n_components(mask: np.ndarray) -> int:
    """Masked regions that share no side."""
    left = {(int(i), int(j)) for i, j in zip(*mask.nonzero(), strict=True)}
    count = 0
    while left:
        count += 1
        frontier = [left.pop()]
        while frontier:
            i, j = frontier.pop()
            near = left & {(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)}
            left -= near
            frontier += near
    return count


def test_three_tokens_in_ten_are_masked() -> None:
    """The mean over 2,000 masks is 0.3, to five standard errors of a Bernoulli mean."""
    torch.manual_seed(0)
    masks = generate_random_token_masks(2000, 14, 14)
    error = (0.3 * 0.7 / masks.numel()) ** 0.5
    assert abs(float(masks.float().mean()) - 0.3) < 5 * error


def test_every_image_is_masked() -> None:
    """No row is left unmasked, where official leaves half of them."""
    torch.manual_seed(0)
    assert bool(generate_random_token_masks(256, 14, 14).any(dim=1).all())


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (1.0, 36)])
def test_ratio_ends(ratio: float, expected: int) -> None:
    """Ratio 0 masks nothing and ratio 1 everything."""
    assert generate_random_token_masks(1, 6, 6, ratio).sum() == expected


@pytest.mark.parametrize("ratio", [-0.1, 1.1, 58.0])
def test_ratio_must_be_a_probability(ratio: float) -> None:
    """A ratio outside 0 to 1 is named."""
    with pytest.raises(ValueError, match=f"mask_ratio is {ratio}"):
        generate_random_token_masks(1, 6, 6, ratio)


def test_draws_come_from_torch_alone() -> None:
    """Torch's seed decides the mask and Python's generator is left where it was."""
    state = random.getstate()
    torch.manual_seed(3)
    first = generate_random_token_masks(4, 14, 14)
    torch.manual_seed(3)
    assert torch.equal(first, generate_random_token_masks(4, 14, 14))
    assert random.getstate() == state


def test_third_view_masks_cover_the_grid_of_a_global_crop() -> None:
    """64 pixels at patch size 16 are a grid of 4 x 4."""
    assert third_view_masks(5, config()).shape == (5, 16)


def test_make_mask_meets_its_target_on_average_only() -> None:
    """At target 58 of 196: mean 58, and a spread of 6.4 patches, where official never exceeds the target."""
    torch.manual_seed(0)
    stack = LegacyStack()
    counts = np.array([stack.make_mask((14, 14), 58, 98.0).sum() for _ in range(2000)])
    assert counts.mean() == pytest.approx(58, abs=5 * 6.4 / 2000**0.5)
    assert counts.std() == pytest.approx((58 * (1 - 58 / 196)) ** 0.5, rel=0.1)
    assert (counts > 58).mean() == pytest.approx(0.48, abs=0.05)
    assert (counts < 58).mean() == pytest.approx(0.46, abs=0.05)


def test_make_mask_is_scattered() -> None:
    """At target 58 a mask falls into 27.5 regions on average, where official's has 2.4."""
    torch.manual_seed(0)
    stack = LegacyStack()
    counts = [n_components(stack.make_mask((14, 14), 58, 98.0).reshape(14, 14)) for _ in range(300)]
    assert np.mean(counts) == pytest.approx(27.5, abs=1.0)


def test_make_mask_of_nothing_is_empty() -> None:
    """Target 0 masks nothing."""
    assert LegacyStack().make_mask((14, 14), 0, 98.0).tolist() == [False] * 196


@pytest.mark.parametrize("target", [-1, 197])
def test_make_mask_rejects_targets_off_the_grid(target: int) -> None:
    """A target that no 14 x 14 mask can meet is named."""
    with pytest.raises(ValueError, match=f"num_masking_patches is {target}, expected 0 to 196"):
        LegacyStack().make_mask((14, 14), target, 98.0)


def test_collate_has_three_global_rows_per_image() -> None:
    """Rows are ordered by view: all of global_1, then global_2, then the iBOT view."""
    batch = collate([sample(1, 3), sample(2, 3)], config(), torch.float32)
    assert values(batch["collated_global_crops"]) == [100, 200, 101, 201, 102, 202]
    assert values(batch["collated_local_crops"]) == [-100, -200, -101, -201]


def test_collate_takes_the_first_crop_again_where_there_is_no_third() -> None:
    """Two views per image, as official makes them, become three."""
    given = [sample(1, 2), sample(2, 2)]
    batch = collate(given, config(), torch.float32)
    assert values(batch["collated_global_crops"]) == [100, 200, 101, 201, 100, 200]
    assert len(given[0]["global_crops"]) == 2


def test_collate_masks_the_third_view_alone() -> None:
    """There are B rows of masks, and the indices point into their B * N tokens."""
    batch = collate([sample(i, 3) for i in range(3)], config(), torch.float32)
    masks = batch["collated_masks"]
    assert masks.shape == (3, 16)
    rebuilt = torch.zeros(48, dtype=torch.bool)
    rebuilt[batch["mask_indices_list"]] = True
    assert torch.equal(rebuilt.view(3, 16), masks)
    assert batch["n_masked_patches"].tolist() == [int(masks.sum())]


def test_collate_offers_neither_weights_nor_buffers() -> None:
    """The fork weights no token and sizes no buffer, so the two keys are missing rather than made up."""
    batch = collate([sample(1, 3)], config(), torch.float32)
    assert not {"masks_weight", "upperbound"} & set(batch)


def test_collate_casts_crops_only() -> None:
    """Half precision reaches the crops; masks and indices keep their types."""
    batch = collate([sample(1, 3)], config(), torch.half)
    dtypes = {name: value.dtype for name, value in batch.items()}
    assert dtypes == {
        "collated_global_crops": torch.half,
        "collated_local_crops": torch.half,
        "collated_masks": torch.bool,
        "mask_indices_list": torch.int64,
        "n_masked_patches": torch.int64,
    }


@pytest.mark.parametrize("n_global", [1, 4])
def test_collate_names_the_sample_with_a_wrong_number_of_views(n_global: int) -> None:
    """One or four global crops are neither official's nor the fork's."""
    with pytest.raises(ValueError, match=rf"samples\[1\] has {n_global} global crops"):
        collate([sample(1, 3), sample(2, n_global)], config(), torch.float32)


def test_collate_needs_an_image() -> None:
    """An empty batch is refused."""
    with pytest.raises(ValueError, match="samples is empty"):
        collate([], config(), torch.float32)
