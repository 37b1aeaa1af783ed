from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from port.data import Batch, MaskingGenerator, collate_data_and_cast

Sample = tuple[dict[str, list[torch.Tensor]], tuple[()]]


def samples(n_images: int, n_local: int = 2) -> list[Sample]:
    """Crops whose every pixel is 100 * image + 10 * crop (+ 1 if local)."""
    return [
        (
            {
                "global_crops": [torch.full((3, 8, 8), 100.0 * i + 10 * c) for c in range(2)],
                "local_crops": [torch.full((3, 4, 4), 100.0 * i + 10 * c + 1) for c in range(n_local)],
            },
            (),
        )
        for i in range(n_images)
    ]


def collate(n_images: int, n_local: int = 2, **changed: Any) -> Batch:
    """Collate samples with 4 x 4 masks, half of the rows masked."""
    arguments: dict[str, Any] = {
        "mask_ratio_tuple": (0.1, 0.5),
        "mask_probability": 0.5,
        "dtype": torch.float32,
        "n_tokens": 16,
        "mask_generator": MaskingGenerator(4, min_num_patches=1, max_num_patches=8.0),
    }
    return collate_data_and_cast(samples(n_images, n_local), **(arguments | changed))


def asked_counts(n_images: int, **changed: Any) -> list[int]:
    """Return the counts that collate asks its generator for."""
    counts: list[int] = []

    def generator(count: int) -> NDArray[np.bool_]:
        counts.append(count)
        return np.zeros((14, 14), dtype=bool)

    collate(n_images, n_tokens=196, mask_generator=generator, **changed)
    return counts


def test_keys_are_official_s_in_order() -> None:
    """The batch has the keys that the training step reads."""
    assert list(collate(2)) == [
        "collated_global_crops",
        "collated_local_crops",
        "collated_masks",
        "mask_indices_list",
        "masks_weight",
        "upperbound",
        "n_masked_patches",
    ]


def test_crops_are_stacked_crop_by_crop() -> None:
    """Crop 1 of every image comes before crop 2 of any."""
    batch = collate(3)
    assert batch["collated_global_crops"][:, 0, 0, 0].tolist() == [0, 100, 200, 10, 110, 210]
    assert batch["collated_local_crops"][:, 0, 0, 0].tolist() == [1, 101, 201, 11, 111, 211]
    assert batch["collated_global_crops"].shape == (6, 3, 8, 8)
    assert batch["collated_local_crops"].shape == (6, 3, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_crops_are_cast_and_nothing_else(dtype: torch.dtype) -> None:
    """`dtype` is the crops' type; weights stay float32, indices int64, masks bool."""
    batch = collate(2, dtype=dtype)
    assert batch["collated_global_crops"].dtype == dtype
    assert batch["collated_local_crops"].dtype == dtype
    assert batch["collated_masks"].dtype == torch.bool
    assert batch["masks_weight"].dtype == torch.float32
    assert batch["mask_indices_list"].dtype == torch.int64
    assert batch["n_masked_patches"].dtype == torch.int64


@pytest.mark.parametrize(("n_images", "n_masked"), [(1, 1), (2, 2), (3, 3), (5, 5)])
def test_masked_rows_are_counted_over_both_crops(n_images: int, n_masked: int) -> None:
    """Half of 2B rows are masked: one of two for a single image, where counting images would mask none."""
    counts = asked_counts(n_images)
    assert sum(count > 0 for count in counts) == n_masked
    assert len(counts) == 2 * n_images


def test_counts_are_official_s_in_single_precision() -> None:
    """Seed 41597, two images, all masked: official asks for 59 in bin 3; double precision would give 58."""
    random.seed(41597)
    assert asked_counts(2, mask_probability=1.0) == [38, 45, 59, 96]


def test_counts_of_a_batch_are_official_s() -> None:
    """Seed 0, 16 images: the counts that official asks its generator for, the unmasked rows last."""
    random.seed(0)
    counts = asked_counts(16)
    assert counts[:16] == [23, 28, 31, 35, 41, 46, 52, 55, 61, 66, 73, 75, 79, 87, 91, 94]
    assert counts[16:] == [0] * 16


def test_upperbound_is_official_s() -> None:
    """The sum of 196 times each bin's upper end, floored per bin: 974 for 16 bins of 0.1 to 0.5."""
    batch = collate(16, n_tokens=196, mask_generator=MaskingGenerator(14, max_num_patches=98.0))
    assert batch["upperbound"] == 974
    assert isinstance(batch["upperbound"], int)


@given(n_images=st.integers(1, 6), probability=st.floats(0, 1), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_indices_weights_and_counts_describe_the_masks(n_images: int, probability: float, seed: int) -> None:
    """Whatever is drawn: indices point at masked patches, each masked row's weights sum to 1, M <= U."""
    random.seed(seed)
    batch = collate(n_images, mask_probability=probability)
    masks = batch["collated_masks"]
    assert masks.shape == (2 * n_images, 16)
    n_masked_patches = int(masks.sum())
    assert batch["n_masked_patches"].tolist() == [n_masked_patches]
    assert batch["mask_indices_list"].shape == batch["masks_weight"].shape == (n_masked_patches,)
    assert masks.flatten()[batch["mask_indices_list"]].all()
    assert n_masked_patches <= batch["upperbound"]
    weights = torch.zeros(masks.shape).masked_scatter(masks, batch["masks_weight"])
    torch.testing.assert_close(weights.sum(1), masks.any(1).float())


def test_masks_are_shuffled_over_both_crops() -> None:
    """Masked rows are found in either half of the batch, and their number in crop 1 varies."""
    masked_in_crop_1 = set()
    for seed in range(20):
        random.seed(seed)
        masked_in_crop_1.add(int(collate(4)["collated_masks"][:4].any(1).sum()))
    assert len(masked_in_crop_1) >= 3


def test_no_masked_rows_give_empty_indices() -> None:
    """At probability 0 all is empty and no patch may be masked."""
    batch = collate(2, mask_probability=0.0)
    assert not batch["collated_masks"].any()
    assert batch["mask_indices_list"].shape == batch["masks_weight"].shape == (0,)
    assert batch["upperbound"] == 0


def test_without_local_crops_the_batch_is_empty_there() -> None:
    """Q19: official stops with torch.stack's error; here (0, 3, 0, 0) says that there are none."""
    batch = collate(2, n_local=0, dtype=torch.float16)
    assert batch["collated_local_crops"].shape == (0, 3, 0, 0)
    assert batch["collated_local_crops"].dtype == torch.float16


def test_no_sample_is_an_error() -> None:
    """An empty list names the likely cause."""
    with pytest.raises(ValueError, match="drop_last"):
        collate(0)


def test_a_generator_of_another_grid_is_an_error() -> None:
    """Masks of 25 patches for crops of 16 are refused, with both numbers."""
    with pytest.raises(ValueError, match="25 patches, expected n_tokens = 16"):
        collate(2, mask_generator=MaskingGenerator(5, max_num_patches=8))
