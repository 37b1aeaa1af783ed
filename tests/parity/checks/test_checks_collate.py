from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from forks import assert_no_alarm, assert_seen, check, fork, port
from omegaconf import DictConfig

from parity.adapters.official import OfficialStack
from port.data import MaskingGenerator, collate_data_and_cast

Batch = dict[str, Any]
RECIPES = ("default", "vitl14")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["collate.batch", "collate.cap"])
def test_the_reference_and_port_pass_bit_for_bit(official_stack: OfficialStack, name: str, recipe: str) -> None:
    """Every field of every batch, without a finding."""
    for subject in (official_stack, port()):
        result = check(official_stack, subject, name, recipe)
        assert_no_alarm(result)
        assert result.bitwise_equal == result.compared


def test_a_long_run_compares_more_batches(official_stack: OfficialStack) -> None:
    """Seven fields of 40 batches, of one to five images; of 8 where the run is quick."""
    compared = [check(official_stack, port(), "collate.batch", "default", quick=q).compared for q in (True, False)]
    assert compared == [56, 280]


def altered(change: Callable[[Batch], Any]) -> Any:
    """A fork whose batch was changed in place after collation."""

    def collate(samples: Any, config: DictConfig, dtype: torch.dtype) -> Batch:
        batch = port().collate(samples, config, dtype)
        change(batch)
        return batch

    return fork(collate=collate)


def _twice_normalised(batch: Batch) -> None:
    batch["masks_weight"] = batch["masks_weight"] ** 2


def _bound_off_by_one(batch: Batch) -> None:
    batch["upperbound"] += 1


def _columns_first(batch: Batch) -> None:
    side = round(batch["collated_masks"].shape[1] ** 0.5)
    flipped = batch["collated_masks"].unflatten(1, (side, side)).transpose(1, 2).flatten()
    batch["mask_indices_list"] = flipped.nonzero().flatten()


def _by_image(batch: Batch) -> None:
    crops = batch["collated_global_crops"]
    batch["collated_global_crops"] = crops.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def _swapped_crops(batch: Batch) -> None:
    batch["collated_global_crops"] = torch.cat(batch["collated_global_crops"].chunk(2)[::-1])


def _int32_count(batch: Batch) -> None:
    batch["n_masked_patches"] = batch["n_masked_patches"].int()


def _count_as_number(batch: Batch) -> None:
    batch["n_masked_patches"] = int(batch["n_masked_patches"])


def _no_bound(batch: Batch) -> None:
    del batch["upperbound"]


def _one_key_more(batch: Batch) -> None:
    batch["zz_masks"] = batch["collated_masks"]


def _half_precision(batch: Batch) -> None:
    batch["masks_weight"] = batch["masks_weight"].half()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_twice_normalised, "masks_weight"),
        (_half_precision, "masks_weight"),
        (_bound_off_by_one, "upperbound"),
        (_no_bound, "upperbound"),
        (_columns_first, "mask_indices_list"),
        (_by_image, "collated_global_crops"),
        (_swapped_crops, "collated_global_crops"),
        (_int32_count, "n_masked_patches"),
        (_count_as_number, "n_masked_patches"),
        (_one_key_more, "zz_masks"),
    ],
)
def test_one_wrong_field_is_the_only_one_accused(
    official_stack: OfficialStack, change: Callable[[Batch], Any], field: str
) -> None:
    """Whatever is wrong with a field, its value, type, order or presence, that field is named and no other."""
    result = check(official_stack, altered(change), "collate.batch", "default")
    assert_seen(result, f"/{field}$")
    assert {c.name.rsplit("/", 1)[1] for c in result.diverged} == {field}


def _third_view(batch: Batch) -> None:
    crops = batch["collated_global_crops"]
    batch["collated_global_crops"] = torch.cat((crops, crops[: len(crops) // 2]))


def _weight_per_row(batch: Batch) -> None:
    batch["masks_weight"] = 1 / batch["collated_masks"].sum(-1).clamp(min=1.0)


def _every_row_masked(batch: Batch) -> None:
    batch["collated_masks"] = batch["collated_masks"] | batch["collated_masks"].any(0)


@pytest.mark.parametrize(
    ("change", "first", "finding", "words"),
    [
        (_third_view, "collated_global_crops", "0002", "3 global views per image (9 rows), official's 2 (6)"),
        (_weight_per_row, "masks_weight", "0005", "one entry per row (6); official's has one per masked token"),
        (_every_row_masked, "collated_masks", "0003", "every row is masked: 6 of 6 mask rows"),
    ],
)
def test_known_differences_are_named(
    official_stack: OfficialStack, change: Callable[[Batch], Any], first: str, finding: str, words: str
) -> None:
    """A third view, a weight per row and a mask on every row are the documented differences."""
    result = check(official_stack, altered(change), "collate.batch", "default")
    assert_seen(result, f"/{first}$", finding, words)
    if finding != "0002":
        assert result.exhibits[0].kind == "masks"


def _collate_with_cap(cap: Callable[[int, int], float]) -> Any:
    """`port`'s collate with another largest block, from (crop size, patch size)."""

    def collate(samples: Any, config: DictConfig, dtype: torch.dtype) -> Batch:
        size, patch = config.crops.global_crops_size, config.student.patch_size
        side = size // patch
        generator = MaskingGenerator((side, side), max_num_patches=cap(size, patch))
        ratios, share = config.ibot.mask_ratio_min_max, config.ibot.mask_sample_probability
        return dict(collate_data_and_cast([(s, ()) for s in samples], ratios, share, dtype, side * side, generator))

    return fork(collate=collate)


def test_half_of_an_odd_grid_is_not_official_s_cap(official_stack: OfficialStack) -> None:
    """684.5 patches of 37 x 37 where official's arithmetic gives 666; even grids give the same and pass."""
    result = check(
        official_stack, _collate_with_cap(lambda size, patch: 0.5 * (size // patch) ** 2), "collate.cap", "default"
    )
    assert_seen(result, "cap/518 px, patch 14", "0003", "of a 37 x 37 grid")
    passed = {c.name for c in result.comparisons if c.passed}
    assert {"cap/224 px, patch 14"} <= passed


@pytest.mark.parametrize("factor", [0.4, 0.6])
def test_another_cap_is_seen_on_every_grid(official_stack: OfficialStack, factor: float) -> None:
    """Two or three fifths of the grid instead of half of it."""
    subject = _collate_with_cap(lambda size, patch: factor * (size // patch) ** 2)
    assert_seen(check(official_stack, subject, "collate.cap", "default"), "^cap/", "0003", "official caps each block")


def test_official_s_own_arithmetic_is_no_divergence(official_stack: OfficialStack) -> None:
    """The cap written out by hand: half the pixels, floored in patches, times the pixels, floored again."""
    subject = _collate_with_cap(lambda size, patch: (size / 2 // patch) * size // patch)
    assert_no_alarm(check(official_stack, subject, "collate.cap", "default"))


def _by_counting(batch: Batch) -> None:
    masks = batch["collated_masks"]
    rows, columns = masks.nonzero(as_tuple=True)
    batch["mask_indices_list"] = rows * masks.shape[1] + columns
    batch["masks_weight"] = (1.0 / torch.bincount(rows, minlength=len(masks))[rows].float()).clone()
    batch["n_masked_patches"] = masks.sum().reshape(1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_fields_computed_otherwise_are_no_divergence(official_stack: OfficialStack, recipe: str) -> None:
    """Indices from rows and columns, weights from a count of rows, the number from a sum."""
    assert_no_alarm(check(official_stack, altered(_by_counting), "collate.batch", recipe))


def test_a_collate_that_ignores_its_dtype_is_seen(official_stack: OfficialStack) -> None:
    """Crops stay float32 where half precision was asked for: the crops of those batches, and nothing else."""
    subject = fork(collate=lambda samples, config, dtype: port().collate(samples, config, torch.float32))
    result = check(official_stack, subject, "collate.batch", "default")
    assert_seen(result, "seed 2/collated_global_crops$")
    assert {c.name.rsplit("/", 1)[1] for c in result.diverged} == {"collated_global_crops", "collated_local_crops"}


def _half_masked(samples: Any, config: DictConfig, dtype: torch.dtype) -> Batch:
    config = config.copy()
    config.ibot.mask_sample_probability = 0.5
    return port().collate(samples, config, dtype)


def test_a_fixed_share_of_masked_crops_is_seen(official_stack: OfficialStack) -> None:
    """One half is what the recipes ask for; the variant that masks no crop shows who reads the configuration."""
    subject = fork(collate=_half_masked)
    assert_no_alarm(check(official_stack, subject, "collate.batch", "default"))
    assert_seen(check(official_stack, subject, "collate.batch", "default-unmasked"), "/(collated_masks|mask_)")
