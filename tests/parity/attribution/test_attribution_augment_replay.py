from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytest
import torch
from PIL import Image

from parity.adapters.official import OfficialStack
from parity.adapters.transform_steps import step_name
from parity.attribution.augment.charts import Normalisation
from parity.attribution.augment.replay import Case, _applied, _chains, explain
from parity.attribution.augment.variants import Variant, pairs_of, variants
from parity.checks.augment import augmented, small_config
from parity.photographs import photographs
from parity.seeding import seeded

KNOWN = list(variants())
UNCHANGED = Variant("", "", "", lambda _: None)


def equal(left: Sequence[Case], right: Sequence[Case]) -> bool:
    """Whether all crops of all cases are the same."""
    pairs = [(a, b) for x, y in zip(left, right, strict=True) for a, b in zip(x.crops, y.crops, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


@lru_cache(maxsize=1)
def some_images() -> list[Image.Image]:
    """More images than a check replays: a change of a step that is seldom made must meet it."""
    return [photograph.image for photograph in photographs(12)]


@pytest.fixture(scope="module")
def official_augmentation(opened_official_stack: OfficialStack) -> Any:
    """Official's own, of the small configuration."""
    return opened_official_stack.augmentation(small_config())


def cases(augmentation: Any, variant: Variant, images: Sequence[Image.Image] = ()) -> list[Case]:
    """What a subject that makes this change would give."""
    found = []
    for seed, image in enumerate(images or some_images()):
        chains = _chains(augmentation)
        variant.edit(chains)
        seeded(seed if variant.seed is None else variant.seed)
        made: dict[str, list[torch.Tensor]] = {}
        for view in variant.order:
            count = augmentation.local_crops_number if view == "local" else 1
            made[view] = [_applied(chains[view], image) for _ in range(count)]
        found.append(Case(image, seed, (*made["global_1"], *made["global_2"], *made["local"])))
    return found


def test_copies_of_official_s_transforms_give_official_s_crops(official_stack: OfficialStack) -> None:
    """Replayed without a change, official's views are official's: nothing is to be explained."""
    config = small_config()
    found = []
    for seed, photograph in zip(range(3), photographs(3), strict=True):
        crops = augmented(official_stack, photograph.image, config, seed)
        found.append(Case(photograph.image, seed, (*crops["global_crops"], *crops["local_crops"])))
    assert explain(official_stack.augmentation(config), found, None) == ()


@pytest.mark.parametrize("number", range(0, len(KNOWN), 9))
def test_a_known_change_is_found(official_augmentation: Any, number: int) -> None:
    """What is named makes the same crops as the change that was made.

    It is one change; none where no crop shows it, such as another threshold where nothing is solarised.
    """
    made = cases(official_augmentation, KNOWN[number])
    found = explain(official_augmentation, made, None)
    assert found is not None
    assert len(found) == (not equal(made, cases(official_augmentation, UNCHANGED)))
    assert equal(made, cases(official_augmentation, found[0] if found else UNCHANGED))


def test_changes_have_different_sentences() -> None:
    """No two changes are told alike, and each says what official does."""
    sentences = [variant.sentence for variant in KNOWN]
    assert len(set(sentences)) == len(sentences)
    assert len(KNOWN) > 50
    for variant in KNOWN:
        assert variant.official.startswith("dinov2/")
        assert variant.id in ("", "Q1")


def test_two_changes_are_found_together(official_augmentation: Any) -> None:
    """A corrected blur and another solarisation."""
    solarised = next(v for v in KNOWN if "begins at 64" in v.sentence)
    found = explain(official_augmentation, cases(official_augmentation, KNOWN[0].followed_by(solarised)), None)
    assert found is not None
    assert [variant.sentence for variant in found] == [KNOWN[0].sentence, solarised.sentence]
    assert len(list(pairs_of(iter(KNOWN)))) == len(KNOWN) - 1


def test_a_change_besides_another_normalisation(official_augmentation: Any) -> None:
    """With the subject's mean and deviation known, what else is changed is found."""
    half = Normalisation((0.5,) * 3, (0.5,) * 3)
    corrected = KNOWN[0]

    def edit(chains: Any) -> None:
        corrected.edit(chains)
        for chain in chains.values():
            for step in chain:
                if step_name(step) == "normalize":
                    step.mean, step.std = [0.5] * 3, [0.5] * 3

    made = cases(official_augmentation, Variant("", "", "", edit))
    assert explain(official_augmentation, made, None) is None
    assert explain(official_augmentation, made, half) == (corrected,)


def test_what_is_not_known_is_not_guessed(official_augmentation: Any) -> None:
    """Noise on top of official's crops has no name; nor has one crop of many that differs."""
    made = cases(official_augmentation, UNCHANGED, some_images()[:4])
    noisy = [Case(c.image, c.seed, tuple(crop + 1e-3 for crop in c.crops)) for c in made]
    assert explain(official_augmentation, noisy, None) is None
    one = [*made[:3], noisy[3]]
    assert explain(official_augmentation, one, None) is None
    assert explain(official_augmentation, [], None) is None


def test_official_s_transforms_are_not_changed(official_augmentation: Any) -> None:
    """The edits are made to copies, of which no two views share one."""
    before = str(vars(official_augmentation))
    explain(official_augmentation, [Case(some_images()[0], 0, (torch.zeros(1),) * 5)], None)
    assert str(vars(official_augmentation)) == before
    chains = _chains(official_augmentation)
    steps = [id(step) for chain in chains.values() for step in chain]
    assert len(set(steps)) == len(steps)
    assert [step_name(step) for step in chains["global_2"]] == [
        *("crop", "flip", "jitter", "grayscale", "blur", "solarize", "totensor", "normalize")
    ]
