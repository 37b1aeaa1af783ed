"""Check `masks.statistical`: batches of masks from whatever generator, see `parity.checks.statistical`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from parity import states
from parity.attribution.masks import attribute_mask_statistics
from parity.checks.base import Check, Context, Observation
from parity.checks.collate import explain_views
from parity.checks.masks import as_grid
from parity.checks.statistical import SHARE, SUBJECT_SEEDS, compared, table
from parity.compare import exact
from parity.errors import SubjectError
from parity.mask_statistics import PLACES, batch_features
from parity.own_randomness import own_randomness
from parity.permutation import judge
from parity.recipes import RECIPES
from parity.results import Comparison
from parity.seeding import seeded
from parity.stack import capability, stack_name

__all__ = ["CHECKS"]

_BATCHES, _IMAGES = 64, 8
_SETTINGS = (
    # Pixels of a crop and of a patch, smallest and largest mask ratio: the recipes', and the smallest odd grid, where
    # flooring takes most from the cap on a block, 3 patches instead of 4.5 (Q3); on larger ones no batch shows it.
    (112, 8, 0.1, 0.5),
    (42, 14, 0.4, 0.6),
)
_CAPPED = "3x3 patches"

Draw = Callable[[Any, int], np.ndarray]


def _masks(context: Context) -> Iterator[Observation]:
    """Batches of masks: as collated, and as drawn where that is all there is or is said to be the subject's own."""
    samples: dict[str, tuple[list[Mapping[str, float]], list[Mapping[str, float]]]] = {}
    for size, patch, low, high in _SETTINGS:
        config = RECIPES[0].config()
        config.crops.global_crops_size, config.student.patch_size = size, patch
        config.crops.local_crops_size, config.crops.local_crops_number = 2 * patch, 1
        config.ibot.mask_ratio_min_max = [low, high]
        side = size // patch
        name = f"{side}x{side} patches, {low:.0%} to {high:.0%}"
        if capability(context.subject, "collate") is not None:
            given = states.samples(_IMAGES, size, 2 * patch, 1, 0)
            if "collate" in own_randomness(context.subject):  # else `collate.batch` compares all of it
                yield from _derived(context, given, config, name)
            yield from _drawn(context, f"batch of {name}", _collated(given, config, side), samples)
        own = {"make_mask", "mask_counts"} & set(own_randomness(context.subject))
        if own or capability(context.subject, "collate") is None:
            yield from _drawn(
                context, f"masks of {name}", _made(context.reference, config, side), samples, left_out=PLACES
            )
    groups = judge(samples, SHARE)
    for group in groups:
        yield from compared(group)
    yield from attribute_mask_statistics(
        *(
            [f for group in groups if (_CAPPED in group.name) is capped for f in group.features]
            for capped in (False, True)
        )
    )
    yield table(groups)


def _drawn(
    context: Context, name: str, draw: Draw, samples: dict[str, Any], left_out: Sequence[str] = ()
) -> Iterator[Comparison]:
    """Fill in both sides' features; batches must not repeat: a test of means would not see it."""
    sides: list[list[Mapping[str, float]]] = []
    distinct = []
    for stack, first in ((context.reference, 0), (context.subject, SUBJECT_SEEDS)):
        batches = [draw(stack, first + number) for number in range(_BATCHES)]
        distinct.append(len({batch.tobytes() for batch in batches}))
        features = [batch_features(batch) for batch in batches]
        sides.append([{k: v for k, v in one.items() if k not in left_out} for one in features])
    samples[name] = (sides[0], sides[1])
    yield Comparison(
        f"{name}/different batches of {_BATCHES}",
        "T4",
        passed=2 * distinct[1] > distinct[0],
        bitwise=distinct[0] == distinct[1],
        reference=str(distinct[0]),
        subject=str(distinct[1]),
        note="passes above half as many as official's: few repeat by chance",
    )


def _collated(given: list[dict[str, list[Tensor]]], config: DictConfig, side: int) -> Draw:
    def draw(stack: Any, seed: int) -> np.ndarray:
        seeded(seed)
        return _grids(stack, stack.collate(given, config, torch.float32), side)

    return draw


def _grids(stack: Any, batch: Mapping[str, Any], side: int) -> np.ndarray:
    """Return the masks of a collated batch, bool (rows, side, side)."""
    masks = batch.get("collated_masks")
    if not isinstance(masks, Tensor) or masks.ndim < 2 or masks[0].numel() != side * side:
        found = str(tuple(masks.shape)) if isinstance(masks, Tensor) else type(masks).__name__
        raise SubjectError(f"{stack_name(stack)}: collated_masks is {found}, expected bool (2B, {side * side})")
    return np.asarray(masks.detach().cpu().bool()).reshape(-1, side, side)


def _made(reference: Any, config: DictConfig, side: int) -> Draw:
    """Masks as official's collate asks for them (`dinov2/data/collate.py:20-34`); what a stack lacks, official does."""
    rows, tokens = 2 * _IMAGES, side * side
    size, patch = config.crops.global_crops_size, config.student.patch_size
    cap = 0.5 * size // patch * size // patch  # dinov2/train/train.py:172
    ratios, probability = tuple(config.ibot.mask_ratio_min_max), config.ibot.mask_sample_probability

    def draw(stack: Any, seed: int) -> np.ndarray:
        seeded(seed)
        count, make = (capability(stack, n) or getattr(reference, n) for n in ("mask_counts", "make_mask"))
        asked = [int(value) for value in count(rows, tokens, ratios, probability)]
        nothing = np.zeros((side, side), dtype=bool)
        return np.stack([as_grid(make((side, side), n, cap), (side, side)) if n else nothing for n in asked])

    return draw


def _derived(
    context: Context, given: list[dict[str, list[Tensor]]], config: DictConfig, name: str
) -> Iterator[Observation]:
    """What no draw decides: the crops, the bound, and what follows from the subject's own masks, bit for bit."""
    reference, subject = (stack.collate(given, config, torch.float32) for stack in (context.reference, context.subject))
    expected = {key: reference[key] for key in ("collated_global_crops", "collated_local_crops", "upperbound")}
    masks = subject.get("collated_masks")
    if isinstance(masks, Tensor) and masks.dtype is torch.bool and masks.ndim == 2:
        places = masks.flatten().nonzero().flatten()  # dinov2/data/collate.py:37-39
        weights = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
        count = torch.full((1,), len(places), dtype=torch.long)
        expected |= {"mask_indices_list": places, "masks_weight": weights, "n_masked_patches": count}
    for key, value in expected.items():
        yield exact(f"batch of {name}/given its masks/{key}", value, subject.get(key))
    yield from explain_views(_IMAGES, reference, subject)


CHECKS = (
    Check(
        "masks.statistical",
        "L1",
        f"the distribution of masks over {_BATCHES} batches a side, from whatever generator they are drawn",
        ("dinov2/data/collate.py:20-39", "dinov2/data/masking.py:49-86", "dinov2/train/train.py:167-173"),
        (),
        _masks,
        either=("collate", "make_mask", "mask_counts"),
    ),
)
