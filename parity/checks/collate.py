"""Family `collate`: the batch, field by field, and what it says of views and masked rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from parity import states
from parity.attribution.masks import attribute_batch_masks, attribute_cap
from parity.checks.base import Check, Context, Observation
from parity.compare import exact, exact_mapping
from parity.results import Exhibit, Finding
from parity.seeding import seeded

__all__ = ["CHECKS", "explain_views"]

_COLLATE = ("dinov2/data/collate.py:10-49", "dinov2/train/train.py:167-192")


def _fields(context: Context) -> Iterator[Observation]:
    """The same samples and the same seed give the same batch, key by key."""
    recipe = context.recipe  # collate knows nothing of the features that a recipe may need of the model
    assert recipe is not None
    config = recipe.config()
    shown = False
    for seed in range(8 if context.quick or recipe.is_variant else 40):
        dtype = torch.float16 if seed % 4 == 2 else torch.float32  # official trains on half-precision images (Q30)
        count = (recipe.batch_size, 1, 2, 5)[seed % 4]
        given = states.samples(
            count,
            config.crops.global_crops_size,
            config.crops.local_crops_size,
            max(config.crops.local_crops_number, 1),
            seed,
        )
        batches = []
        for stack in (context.reference, context.subject):
            seeded(seed)
            batches.append(stack.collate(given, config, dtype))
        reference, subject = batches
        prefix = f"batch/{count} images/seed {seed}"
        comparisons = exact_mapping(prefix, reference, subject)
        yield from comparisons
        if not shown and not all(c.passed for c in comparisons):
            shown = True
            yield from _explain(count, reference, subject)


def _explain(count: int, reference: Mapping[str, Any], subject: Mapping[str, Any]) -> Iterator[Observation]:
    """Views per image, masked rows, and the two batches of masks side by side."""
    yield from explain_views(count, reference, subject)
    masks = [_mask_rows(batch) for batch in (reference, subject)]
    if masks[0] is None or masks[1] is None:
        return
    yield from attribute_batch_masks(*(m.sum(-1).tolist() for m in masks if m is not None))
    yield from _weights(reference, subject)
    yield _picture(masks[0], masks[1])


def explain_views(count: int, reference: Mapping[str, Any], subject: Mapping[str, Any]) -> Iterator[Finding]:
    """Explain a batch of `count` images that holds more global crops than official's."""
    rows = [len(batch.get("collated_global_crops", ())) for batch in (reference, subject)]
    if rows[1] > rows[0]:
        yield Finding(
            "0002",
            f"the batch holds {rows[1] / count:g} global views per image ({rows[1]} rows), official's "
            f"{rows[0] / count:g} ({rows[0]}): a view more is augmented, loaded and sent to the device",
            "migration 0002 (remove the third global view): python -m parity explain 0002",
            "dinov2/data/augmentations.py:96-118",
        )


def _weights(reference: Mapping[str, Any], subject: Mapping[str, Any]) -> Iterator[Observation]:
    """`masks_weight` per row instead of per masked token cannot weight a flat list of tokens."""
    left, right = reference.get("masks_weight"), subject.get("masks_weight")
    masks = _mask_rows(subject)
    if not isinstance(left, Tensor) or not isinstance(right, Tensor) or masks is None:
        return
    if right.shape[0] == masks.shape[0] != int(masks.sum()):
        yield Finding(
            "0005",
            f"masks_weight has one entry per row ({right.shape[0]}); official's has one per masked token "
            f"({left.shape[0]}), in the order of mask_indices_list",
            "migration 0005: expand the weights over the masked tokens",
            "dinov2/data/collate.py:39",
        )


def _mask_rows(batch: Mapping[str, Any]) -> Tensor | None:
    masks = batch.get("collated_masks")
    return masks.detach().cpu().bool().flatten(1) if isinstance(masks, Tensor) and masks.ndim >= 2 else None


def _picture(reference: Tensor, subject: Tensor) -> Exhibit:
    rows = []
    for title, masks in (("official", reference), ("subject", subject)):
        side = round(masks.shape[1] ** 0.5)
        for row in masks[masks.any(-1)][:2]:
            grid = row.reshape(side, -1) if side and masks.shape[1] % side == 0 else row.reshape(1, -1)
            rows.append({"title": f"{title} ({int(row.sum())} of {row.numel()})", "mask": grid.tolist()})
    return Exhibit("masks", "masked rows of one batch", tuple(rows))


def _scalars(context: Context) -> Iterator[Observation]:
    """The batch under the arithmetic that official writes for its mask generator: 518/14 caps at 666 patches."""
    recipe = context.required_recipe()
    for size, patch in ((518, 14), (224, 14), (112, 16), (98, 14)):
        config = recipe.config()
        config.crops.global_crops_size, config.student.patch_size = size, patch
        config.ibot.mask_ratio_min_max = [0.8, 0.9]
        drawn = []
        for stack in (context.reference, context.subject):
            seeded(size)
            # The masks depend on the configured size alone, so that the crops themselves may be one pixel.
            batch = stack.collate(states.samples(4, 1, 1, 1, 0), config, torch.float32)
            drawn.append(batch.get("collated_masks"))
        comparison = exact(f"cap/{size} px, patch {patch}", drawn[0], drawn[1], note="dinov2/train/train.py:172")
        yield comparison
        if not comparison.passed:
            yield from attribute_cap(size // patch, drawn[0], drawn[1])


CHECKS = (
    Check(
        "collate.batch",
        "L1",
        "every field of the batch: crops in order, masks over all 2B rows, indices, weights, upperbound",
        _COLLATE,
        ("collate",),
        _fields,
        recipes="all",
        draws=("collate",),
    ),
    Check(
        "collate.cap",
        "L1",
        "the cap on patches per block, half the grid by floor arithmetic from left to right (Q3)",
        ("dinov2/train/train.py:167-173",),
        ("collate",),
        _scalars,
        recipes="main",
        draws=("collate",),
    ),
)
