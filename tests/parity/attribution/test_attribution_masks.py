from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.attribution.masks import attribute_batch_masks, attribute_cap, attribute_counts, attribute_masks
from parity.results import Comparison, Finding

FIRST = Comparison("counts/4 crops/seed 2", "T0", False, False, reference="[19, 58]", subject="[20, 57]")
BLOCKS = {
    "mean": 55.5,
    "max": 58.0,
    "over": 0.0,
    "under": 0.9,
    "components": 1.6,
    "area": 34.0,
    "aspect": 1.0,
    "row": 0.5,
    "column": 0.5,
}


def _masks(**changes: float) -> list[Finding]:
    return list(attribute_masks(58, BLOCKS, {**BLOCKS, **changes}))


def test_equal_statistics_are_not_accused() -> None:
    """No difference, no finding."""
    assert _masks() == []


def test_scattered_tokens_are_named() -> None:
    """Bernoulli masks fall into many components."""
    (finding,) = _masks(components=24.3, over=0.47)
    assert finding.id == "0003"
    assert "scattered tokens, not blocks: 24.3 connected components per mask of 58 patches, official 1.6" in (
        finding.sentence
    )
    assert "over target in 47%" in finding.sentence


def test_overshoot_is_named() -> None:
    """Blocks that go on after the first that adds something cover more than asked."""
    (finding,) = _masks(over=0.25, mean=60.2, max=71.0)
    assert "masks overshoot: 25.0%" in finding.sentence
    assert "largest 71" in finding.sentence
    assert finding.official == "dinov2/data/masking.py:69-70"


def test_other_differences_are_told_in_numbers() -> None:
    """Without a known signature the numbers themselves are shown, and no cause is claimed."""
    (finding,) = _masks(mean=50.0, over=0.01, components=2.0)
    assert "differ: mean 50.00 against 55.50" in finding.sentence
    assert "scattered" not in finding.sentence
    assert "overshoot" not in finding.sentence


def _asked(n_rows: int, n_tokens: int, ratio: tuple[float, float], probability: float, *, double: bool) -> list[int]:
    """Official's rule: half of the rows, one ratio bin each; bins in float32, or in float64 as forks have it."""
    masked = int(n_rows * probability)
    bins = torch.linspace(*ratio, masked + 1, dtype=torch.float64 if double else torch.float32)
    # random.uniform, written out: with float32 bounds its arithmetic is float32.
    drawn = [int(n_tokens * (low + (high - low) * random.random())) for low, high in pairwise(bins)]
    return drawn + [0] * (n_rows - masked)


def _over_all(*, double: bool) -> Callable[..., list[int]]:
    return lambda rows, tokens, ratio, p: _asked(rows, tokens, ratio, p, double=double)


def _per_crop(*, double: bool) -> Callable[..., list[int]]:
    return lambda rows, tokens, ratio, p: [
        count for _ in range(2) for count in _asked(rows // 2, tokens, ratio, p, double=double)
    ]


def _counts(mask_counts: Callable[..., list[int]]) -> list[Finding]:
    subject: Any = SimpleNamespace(mask_counts=mask_counts)
    return list(attribute_counts(subject, FIRST))


PER_CROP = "masks are drawn per crop: batches of 1, 3, 5 images get 0, 2, 4 masked crops"
FLOAT64 = "ratio bins are computed in float64"


@pytest.mark.parametrize(
    ("mask_counts", "told"),
    [
        (_per_crop(double=False), [PER_CROP]),
        (_over_all(double=True), [f"{FLOAT64}: random.seed(30607) asks for 19 of 196 patches"]),
        (_per_crop(double=True), [PER_CROP, f"{FLOAT64}: random.seed(526517) asks for 20 of 196 patches"]),
        (
            lambda rows, tokens, ratio, p: [int(0.3 * tokens)] * rows,
            ["batches of 1, 3, 5 images get 2, 6, 10 masked crops; official masks 1, 3, 5"],
        ),
    ],
    ids=["per crop", "float64", "both", "every crop"],
)
def test_variants_of_the_counts_are_told_apart(mask_counts: Callable[..., list[int]], told: list[str]) -> None:
    """Each fabricated variant has its own findings, and no more."""
    findings = _counts(mask_counts)
    assert len(findings) == len(told)
    for finding, words in zip(findings, told, strict=True):
        assert finding.id == "0003"
        assert words in finding.sentence


def test_an_unknown_cause_is_shown_by_its_first_case() -> None:
    """Official's own arithmetic is accused of nothing known; the first failed comparison is quoted."""
    (finding,) = _counts(_over_all(double=False))
    assert "first at counts/4 crops/seed 2: [20, 57] against [19, 58]" in finding.sentence


def test_float32_and_float64_bins_do_part_at_the_quoted_seeds() -> None:
    """The seeds and counts of the sentences, by official's arithmetic."""
    for seed, rows, double, count in (
        (30607, 64, False, 20),
        (30607, 64, True, 19),
        (526517, 32, False, 21),
        (526517, 32, True, 20),
    ):
        random.seed(seed)
        assert _asked(rows, 196, (0.1, 0.5), 0.5, double=double)[0] == count


def _batch(official: list[int], mine: list[int]) -> list[Finding]:
    return list(attribute_batch_masks(official, mine))


def test_a_batch_masked_throughout_is_named() -> None:
    """Six of six rows, where official masks three, with the range of counts of each."""
    (finding,) = _batch([19, 0, 98, 0, 58, 0], [55, 61, 57, 58, 60, 56])
    assert finding.id == "0003"
    assert finding.sentence == (
        "every row is masked: 6 of 6 mask rows, 55 to 61 patches each; official masks 3 of 6 (all global crops), "
        "19 to 98 patches each"
    )


def test_another_share_of_masked_rows_is_told() -> None:
    """Two rows instead of three; or none at all."""
    (finding,) = _batch([19, 0, 98, 0, 58, 0], [0, 20, 0, 60, 0, 0])
    assert finding.sentence.startswith("2 of 6 mask rows, 20 to 60 patches each; official masks 3 of 6")
    (finding,) = _batch([19, 0], [0, 0])
    assert finding.sentence.startswith("0 of 2 mask rows, none; official masks 1 of 2")


@pytest.mark.parametrize(
    ("official", "mine"),
    [([19, 0], [58, 0]), ([19, 0, 98, 0], [40, 0]), ([0, 0], [0, 0]), ([5, 6], [7, 8])],
)
def test_the_same_share_is_not_accused(official: list[int], mine: list[int]) -> None:
    """Also in a batch of another size, and where official masks nothing or everything."""
    assert _batch(official, mine) == []


def test_the_fullest_masks_of_a_large_request_are_told() -> None:
    """Official's cap at half the grid leaves less than a fork that caps otherwise covers."""
    official, mine = torch.zeros(2, 9, dtype=torch.bool), torch.ones(2, 9, dtype=torch.bool)
    official[1, :4] = True
    (finding,) = attribute_cap(3, official, mine)
    assert "of a 3 x 3 grid, the fullest mask covers 9 patches, official's 4" in finding.sentence


@pytest.mark.parametrize(("official", "mine"), [(None, torch.ones(1, 9)), (torch.ones(1, 9), None), (None, None)])
def test_without_masks_of_both_there_is_nothing_to_tell(official: Tensor | None, mine: Tensor | None) -> None:
    """A side that returned no masks has failed elsewhere."""
    assert list(attribute_cap(3, official, mine)) == []
