"""Official's augmentation with one thing changed, replayed: the change whose crops are the subject's bit for bit.

A subject that draws from torch's generator as official does, but computes something else, is explained exactly: each
known change is made to copies of official's own transforms, and the images that diverge are cut again under the same
seeds. A change is named only where it gives every crop of every image; where none does, nothing is said.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from parity.adapters.official_data import VIEWS
from parity.adapters.transform_steps import leaves, step_name
from parity.attribution.augment.charts import Normalisation
from parity.attribution.augment.edits import Chains, set_normalisation
from parity.attribution.augment.variants import Variant, pairs_of, variants
from parity.seeding import seeded

__all__ = ["Case", "explain"]

_OFFICIAL = Variant("", "", "", lambda _: None)


@dataclass(frozen=True)
class Case:
    """An image, the seed that it was augmented under, and the subject's crops.

    Attributes:
        image: RGB.
        seed: given to every global generator.
        crops: two global crops, then the local ones.
    """

    image: Image.Image
    seed: int
    crops: tuple[Tensor, ...]


def explain(
    augmentation: Any, cases: Sequence[Case], normalisation: Normalisation | None
) -> tuple[Variant, ...] | None:
    """Return the changes of official's augmentation that give the subject's crops; None where none is known.

    Args:
        augmentation: official's `DataAugmentationDINO`; it is not changed.
        cases: images of which some diverge.
        normalisation: the subject's, where it is not official's; the changes are then made besides.

    Returns:
        one change or two; none (an empty tuple) where the crops are official's but for the normalisation and for views
        that official does not have.
    """
    chains = _chains(augmentation)
    if normalisation is not None:
        set_normalisation(chains, normalisation)
    n_local = augmentation.local_crops_number
    if _gives(_OFFICIAL, chains, n_local, cases):
        return ()
    for variant in variants():
        if _gives(variant, chains, n_local, cases):
            return (variant,)
    for first, second in pairs_of(variants()):
        if _gives(first.followed_by(second), chains, n_local, cases):
            return first, second
    return None


def _chains(augmentation: Any) -> Chains:
    """Return copies of the transforms of each view; no two views share one, so that each can be changed alone."""
    chains = {
        view: [copy.deepcopy(leaf) for name in names for leaf in leaves(getattr(augmentation, name))]
        for view, names in VIEWS.items()
    }
    for chain in chains.values():
        for step in chain:
            if step_name(step) == "crop":
                step.scale = tuple(step.scale)  # of the configuration, which would take most of the time to copy
    return chains


def _gives(variant: Variant, chains: Chains, n_local: int, cases: Sequence[Case]) -> bool:
    """Whether a variant gives every crop of every case."""
    changed = copy.deepcopy(chains)
    variant.edit(changed)
    return bool(cases) and all(_same(variant, changed, n_local, case) for case in cases)


def _same(variant: Variant, chains: Chains, n_local: int, case: Case) -> bool:
    if len(case.crops) != 2 + n_local:
        return False
    seeded(case.seed if variant.seed is None else variant.seed)
    expected = {"global_1": case.crops[:1], "global_2": case.crops[1:2], "local": case.crops[2:]}
    return all(
        torch.equal(_applied(chains[view], case.image), crop) for view in variant.order for crop in expected[view]
    )


def _applied(chain: Sequence[Any], image: Image.Image) -> Tensor:
    current: Any = image
    for transform in chain:
        current = transform(current)
    assert isinstance(current, Tensor)
    return current
