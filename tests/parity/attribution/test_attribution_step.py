from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from parity.attribution.step import attribute_census, attribute_frozen
from parity.census import PatchCensus
from parity.results import Finding


def _config() -> DictConfig:
    config = OmegaConf.create(
        {
            "crops": {"global_crops_size": 96, "local_crops_size": 48, "local_crops_number": 3},
            "student": {"patch_size": 16},
        }
    )
    assert isinstance(config, DictConfig)
    return config


def _census(student: int, teacher: int, calls: int = 1) -> PatchCensus:
    census = PatchCensus()
    census.rows.update({("student", 96, 96): student, ("teacher", 96, 96): teacher, ("student", 48, 48): 9})
    census.calls.update({("student", 96, 96): calls})
    return census


def _findings(*args: Any) -> list[Finding]:
    return list(attribute_census(3, _config(), _census(6, 6), _census(*args)))


def test_a_third_view_is_named_with_its_cost() -> None:
    """9 images instead of 6: 3 x 37 tokens more than 6 x 37 + 9 x 10 = 312, which is 36 %."""
    (finding,) = _findings(9, 9, 2)
    assert finding.id == "0001"
    assert "9 images of 96 px pass through the student (3 per image, in 2 calls) and 9 through the teacher" in (
        finding.sentence
    )
    assert "official passes 6 and 6: 36% more student tokens" in finding.sentence
    assert finding.official.startswith("dinov2/train/ssl_meta_arch.py:")


def test_too_few_images_are_named() -> None:
    """Only one global crop of each image."""
    (finding,) = _findings(3, 6)
    assert finding.sentence.startswith("3 images of 96 px pass through the student, official passes 6")


@pytest.mark.parametrize("calls", [1, 2])
def test_the_same_images_in_other_calls_are_not_accused(calls: int) -> None:
    """Two calls of three images are the unified forward in another packing."""
    assert _findings(6, 6, calls) == []


RATES = {"backbone.cls_token": {"lr": 1e-4}, "dino_head.last_layer.weight_g": {"lr": 0.0}}


def test_a_last_layer_that_learns_while_official_freezes_it_is_named() -> None:
    """With its rate; official holds it at 0 (Q41)."""
    mine = {"backbone.cls_token": {"lr": 1e-4}, "dino_head.last_layer.weight_g": {"lr": 2e-5}}
    (finding,) = attribute_frozen(RATES, mine)
    assert finding.id == "Q41"
    assert "1 of 1 parameters that official freezes in this step learn at a rate of 2e-05" in finding.sentence


@pytest.mark.parametrize(
    ("official", "mine"),
    [
        (RATES, RATES),
        (RATES, {"backbone.cls_token": {"lr": 1.0}}),
        ({name: {"lr": 0.0} for name in RATES}, {name: {"lr": 1.0} for name in RATES}),
    ],
    ids=["equal", "missing there", "official's first step"],
)
def test_rates_that_are_no_freeze_are_left_alone(official: Any, mine: Any) -> None:
    """Equal rates, a layer that only one side has, and the first step of warm-up, where every rate is 0."""
    assert list(attribute_frozen(official, mine)) == []
