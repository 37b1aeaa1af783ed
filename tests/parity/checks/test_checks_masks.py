from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from forks import Change, assert_no_alarm, assert_seen, check, fork, port

from parity.adapters.official import OfficialStack
from parity.adapters.port import PortStack
from parity.checks.masks import GRIDS, as_grid
from port.data import masking

CHECKS = ("masks.bitwise", "masks.distribution", "masks.counts")

Grid = tuple[int, int]


@pytest.mark.parametrize("name", CHECKS)
def test_the_reference_equals_itself(official_stack: OfficialStack, name: str) -> None:
    """Every mask and count bit for bit, without a finding."""
    result = check(official_stack, official_stack, name)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared


@pytest.mark.parametrize("name", CHECKS)
def test_port_passes(official_stack: OfficialStack, name: str) -> None:
    """Every mask and count bit for bit, without a finding."""
    result = check(official_stack, port(), name)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared


def test_all_seeds_are_drawn(official_stack: OfficialStack) -> None:
    """One row per seed, on every grid, and on the grid of the default recipe half of the time."""
    names = [c.name for c in check(official_stack, port(), "masks.bitwise", seeds=44).comparisons]
    assert len(names) == 44
    for height, width in GRIDS:
        assert any(f"mask/{height}x{width}/" in name for name in names), (height, width)
    assert sum("mask/14x14/" in name for name in names) >= 22


def _transposed(grid: Grid, asked: int, cap: float) -> Any:
    return port().make_mask((grid[1], grid[0]), asked, cap).T


def _scattered(grid: Grid, asked: int, cap: float) -> Any:
    mask = np.zeros(grid[0] * grid[1], dtype=bool)
    mask[random.sample(range(mask.size), asked)] = True
    return mask


def _one_draw_more(grid: Grid, asked: int, cap: float) -> Any:
    mask = port().make_mask(grid, asked, cap)
    random.random()
    return mask


def _inverted(grid: Grid, asked: int, cap: float) -> Any:
    return ~port().make_mask(grid, asked, cap)


def _numpy_random(grid: Grid, asked: int, cap: float) -> Any:
    random.seed(int(np.random.randint(2**31)))
    return port().make_mask(grid, asked, cap)


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        (_transposed, "masks asked for 58 patches differ"),
        (_scattered, "masks are scattered tokens, not blocks"),
        (_inverted, "masks overshoot"),
        (_numpy_random, "masks asked for 58 patches differ"),
    ],
)
def test_other_masks_are_seen_and_explained(
    official_stack: OfficialStack, faulty: Callable[..., Any], words: str
) -> None:
    """A wrong mask is named by its first seed with a picture of both, and the statistics say what is wrong."""
    result = check(official_stack, fork(make_mask=faulty), "masks.bitwise")
    assert_seen(result, r"^mask/", "0003", words)
    (exhibit,) = result.exhibits
    official, mine = (np.array(row["mask"]) for row in exhibit.rows)
    assert official.shape == mine.shape
    assert (official != mine).any()


def test_one_random_number_more_is_seen(official_stack: OfficialStack) -> None:
    """Equal masks from a generator that is left elsewhere: the next mask of the batch would differ."""
    result = check(official_stack, fork(make_mask=_one_draw_more), "masks.bitwise")
    assert_seen(result, "seed 0")
    assert result.diverged[0].note == "equal masks, but another number of random draws"


def _overshooting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on through all ten attempts after a block was added."""

    def add(self: masking.MaskingGenerator, mask: Any, most: float) -> int:
        added = 0
        for _ in range(10):
            area, log_aspect = random.uniform(self.min_num_patches, most), random.uniform(*self.log_aspect_ratio)
            h, w = round(math.sqrt(area * math.exp(log_aspect))), round(math.sqrt(area / math.exp(log_aspect)))
            if w < self.width and h < self.height:
                top, left = random.randint(0, self.height - h), random.randint(0, self.width - w)
                block = mask[top : top + h, left : left + w]
                if 0 < h * w - int(block.sum()) <= most:
                    added += h * w - int(block.sum())
                    block[:] = True
        return added

    monkeypatch.setattr(masking.MaskingGenerator, "_mask", add)


def _default(name: str, value: float) -> Change:
    """A generator whose constructor sets an attribute to something else."""

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        init = masking.MaskingGenerator.__init__

        def faulty(self: masking.MaskingGenerator, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **{**kwargs, name: value})

        monkeypatch.setattr(masking.MaskingGenerator, "__init__", faulty)

    return change


def _attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "ATTEMPTS_PER_BLOCK", 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_overshooting, "official never does"),
        (_default("min_aspect", 0.25), "masks asked for 58 patches differ"),
        (_default("min_num_patches", 16), "masks asked for 58 patches differ"),
        (_default("max_aspect", 1.0), "masks asked for 58 patches differ"),
        (_attempts, "masks asked for"),
    ],
)
def test_another_generator_is_seen_by_seed_and_by_statistics(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch, change: Change, words: str
) -> None:
    """Constants of the generator that differ show in both checks, with a table of both in the second."""
    change(monkeypatch)
    assert_seen(check(official_stack, fork(), "masks.bitwise", seeds=64), r"^mask/")
    result = check(official_stack, fork(), "masks.distribution")
    assert_seen(result, r"^distribution/(19|58|98) patches/", "0003", words)
    assert len(result.exhibits[0].rows) == 6


def _counts(bins: torch.dtype = torch.float32, more: int = 0, rounded: bool = False) -> Callable[..., list[int]]:
    """Official's counting with one thing changed."""

    def count(rows: int, tokens: int, ratios: tuple[float, float], share: float) -> list[int]:
        masked = round(rows * share) if rounded else int(rows * share)
        masked = min(masked + more, rows)
        edges = torch.linspace(ratios[0], ratios[1], masked + 1, dtype=bins).tolist()
        if bins is torch.float32:
            edges = list(torch.linspace(ratios[0], ratios[1], masked + 1))
        drawn = [int(tokens * (a + (b - a) * random.random())) for a, b in pairwise(edges)]
        return drawn + [0] * (rows - masked)

    return count


def _per_crop(rows: int, tokens: int, ratios: tuple[float, float], share: float) -> list[int]:
    half = port().mask_counts(rows // 2, tokens, ratios, share)
    return half + port().mask_counts(rows - rows // 2, tokens, ratios, share)


def _rounded_patches(rows: int, tokens: int, ratios: tuple[float, float], share: float) -> list[int]:
    edges = torch.linspace(*ratios, int(rows * share) + 1)
    drawn = [round(float(tokens * random.uniform(a, b))) for a, b in pairwise(edges)]
    return drawn + [0] * (rows - len(drawn))


def test_the_counting_that_the_faults_start_from_is_right(official_stack: OfficialStack) -> None:
    """Without a fault it gives official's counts, so what the next test sees is the fault."""
    assert_no_alarm(check(official_stack, fork(mask_counts=_counts()), "masks.counts"))


@pytest.mark.parametrize(
    ("faulty", "first", "words"),
    [
        (_counts(torch.float64), "float32 boundary", ""),
        (_counts(more=1), r"^counts/", "get 2, 4, 6 masked crops; official masks 1, 3, 5"),
        (_per_crop, r"^counts/", "masks are drawn per crop: batches of 1, 3, 5 images get 0, 2, 4 masked crops"),
        (_counts(rounded=True), r"^counts/", ""),
        (_rounded_patches, r"^counts/", "number of patches asked for differs, first at counts/"),
    ],
)
def test_other_counts_are_seen(
    official_stack: OfficialStack, faulty: Callable[..., list[int]], first: str, words: str
) -> None:
    """Shares, bins and rounding that differ are seen, and the cause is named where it is known."""
    result = check(official_stack, fork(mask_counts=faulty), "masks.counts")
    assert_seen(result, first, "0003" if words else None, words)


def test_float64_bins_are_named(official_stack: OfficialStack) -> None:
    """Bins in double precision differ three times in a million; the searched draws find them and say so."""
    result = check(official_stack, fork(mask_counts=_counts(torch.float64)), "masks.counts", seeds=8)
    assert_seen(result, "float32 boundary")
    assert {c.name.split("/")[1] for c in result.diverged} == {"float32 boundary"}


def _as_tensor(grid: Grid, asked: int, cap: float) -> Any:
    return torch.from_numpy(PortStack.make_mask(port(), grid, asked, cap)).flatten().unsqueeze(0)


def _as_integers(grid: Grid, asked: int, cap: float) -> Any:
    return PortStack.make_mask(port(), grid, asked, cap).astype(np.int64).ravel()


@pytest.mark.parametrize("spelling", [_as_tensor, _as_integers])
@pytest.mark.parametrize("name", ["masks.bitwise", "masks.distribution"])
def test_other_spellings_of_a_mask_are_no_divergence(
    official_stack: OfficialStack, spelling: Callable[..., Any], name: str
) -> None:
    """A tensor (1, H*W), or 0 and 1 in a flat array, says the same."""
    assert_no_alarm(check(official_stack, fork(make_mask=spelling), name))


def test_a_mask_of_another_grid_is_an_error() -> None:
    """Too few patches cannot be laid out; the check would report it as the subject's error."""
    with pytest.raises(ValueError, match="reshape"):
        as_grid(np.zeros(35, dtype=bool), (6, 6))
