"""Signatures of augmentations that are not official's: which change gives the subject's crops, or how they look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity.attribution.augment.differences import differences, normalisation_differs
from parity.attribution.augment.probes import measure, measure_normalisation
from parity.attribution.augment.replay import Case, explain
from parity.attribution.augment.steps import attribute_decoding, attribute_steps
from parity.permutation import Feature
from parity.photographs import Photograph
from parity.results import Finding
from parity.seeding import seeded

__all__ = ["attribute_crops", "attribute_decoding", "attribute_draws", "attribute_steps"]

_FILE = "dinov2/data/augmentations.py"
_DIVERGING, _EQUAL = 8, 3  # images that are replayed


def attribute_crops(
    reference: Any, subject: Any, config: DictConfig, images: Sequence[Photograph], failed: Sequence[int]
) -> Iterator[Finding]:
    """Explain crops that differ from official's.

    Args:
        reference: the official stack.
        subject: the stack under test.
        config: under which the crops were made.
        images: all images; an image's number is its seed.
        failed: numbers of the images whose crops differ.
    """
    equal = [number for number in range(len(images)) if number not in set(failed)]
    chosen = [*failed[:_DIVERGING], *equal[:_EQUAL]]
    crops = {number: _crops(subject, images[number], config, number) for number in chosen}
    first = failed[0]
    official = _crops(reference, images[first], config, first)
    made = list(_numbers_and_shapes(official, crops[first]))
    yield from made
    if any(finding.id != "0002" for finding in made):
        return  # measurements need crops of the asked for number, size and type
    normal, mine = (measure_normalisation(stack, config) for stack in (reference, subject))
    normalised = list(normalisation_differs(normal, mine))
    yield from normalised
    cases = [Case(images[n].image, n, (*crops[n][0][:2], *crops[n][1])) for n in chosen]
    changes = explain(reference.augmentation(config), cases, mine if normalised else None)
    if changes is not None:
        for change in changes:
            yield Finding(change.id, change.sentence, _next_step(change.id), change.official)
        return
    found = list(differences(measure(reference, config), measure(subject, config)))
    yield from found
    if not found and not made and not normalised:
        yield Finding(
            "",
            "crops differ, but everything that was measured of them (area, blur, colours, flips, solarisation, "
            "normalisation) agrees with official's: another random stream, or a change too small to measure",
            "draw from torch's generator in official's order: crop, flip, jitter, grayscale, blur, solarize",
            f"{_FILE}:96-118",
        )


def attribute_draws(
    reference: Any, subject: Any, config: DictConfig, parted: Mapping[str, Sequence[Feature]]
) -> Iterator[Finding]:
    """Explain crops whose distribution differs, by measuring both sides on charts; else by naming what differs.

    Args:
        reference: the official stack.
        subject: the stack under test.
        config: whose scales of crops are measured.
        parted: by view, the features that differ.
    """
    normal, mine = (measure_normalisation(stack, config) for stack in (reference, subject))
    found = list(normalisation_differs(normal, mine))
    found += differences(measure(reference, config), measure(subject, config))
    yield from found
    if not found:
        told = "; ".join(
            f"{view}: " + ", ".join(f"{f.name} {f.subject:.3g} (official {f.reference:.3g})" for f in features)
            for view, features in parted.items()
            if features
        )
        yield Finding("", f"crops look otherwise: {told}", "compare these transforms", f"{_FILE}:44-94")


def _next_step(identity: str) -> str:
    return f"python -m parity explain {identity}" if identity else "do as official does at this line"


def _crops(stack: Any, photograph: Photograph, config: DictConfig, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return an image's global and local crops."""
    seeded(seed)
    made: Mapping[str, Any] = stack.augment(photograph.image.copy(), config, seed)
    return list(made.get("global_crops", ())), list(made.get("local_crops", ()))


def _numbers_and_shapes(
    official: tuple[list[Tensor], list[Tensor]], mine: tuple[list[Tensor], list[Tensor]]
) -> Iterator[Finding]:
    for kind, left, right in zip(("global", "local"), official, mine, strict=True):
        if kind == "global" and len(right) > len(left):
            yield Finding(
                "0002",
                f"an image has {len(right)} global views, official's {len(left)}: the views after the second are never "
                "compared, and each costs a crop and two forwards",
                "migration 0002 (remove the third global view): python -m parity explain 0002",
                f"{_FILE}:96-118",
            )
        elif len(right) != len(left):
            yield Finding(
                "",
                f"an image has {len(right)} {kind} crops, official's {len(left)}",
                "make two global crops, and crops.local_crops_number local ones",
                f"{_FILE}:96-118",
            )
        kinds = {(tuple(crop.shape), str(crop.dtype).removeprefix("torch.")) for crop in right[: len(left)]}
        expected = {(tuple(crop.shape), str(crop.dtype).removeprefix("torch.")) for crop in left}
        if kinds - expected:
            yield Finding(
                "",
                f"{kind} crops are {_spell(kinds - expected)}, official's {_spell(expected)}",
                "return float32 tensors (3, side, side), of the sides in config.crops",
                f"{_FILE}:85-94",
            )
    if len(mine[1]) > 1 and all(torch.equal(crop, mine[1][0]) for crop in mine[1][1:]):
        yield Finding(
            "",
            f"the {len(mine[1])} local crops of an image are the same one: each is made from the same random numbers",
            "draw anew for each crop",
            f"{_FILE}:112-114",
        )


def _spell(kinds: set[tuple[tuple[int, ...], str]]) -> str:
    return " and ".join(f"{dtype} {shape}" for shape, dtype in sorted(kinds))
