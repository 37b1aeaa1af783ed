from __future__ import annotations

from typing import Any

import pytest
import torch

from parity.adapters.official import OfficialStack
from parity.doctor_data import examine_crops, examine_orders
from parity.recipes import RECIPES


class Altered:
    """Official's stack with some functions replaced."""

    def __init__(self, official: OfficialStack, **functions: Any) -> None:
        self._official = official
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._official, name)


def test_official_s_data_code_passes(official_stack: OfficialStack) -> None:
    """Five crops and two views repeat, and eight orders: four samplers, shuffled and not."""
    crops, orders = examine_crops(official_stack, RECIPES[0].config()), examine_orders(official_stack)
    assert (crops.passed, crops.note) == (True, "7 crops repeat under a seed")
    assert (orders.passed, orders.note) == (True, "8 orders repeat")
    assert (crops.name, orders.name) == ("doctor/crops", "doctor/orders")


@pytest.mark.parametrize("fault", ["noise", "constant"])
def test_crops_that_no_seed_decides_are_found(official_stack: OfficialStack, fault: str) -> None:
    """Crops from a generator of their own never repeat; crops that are always the same were not drawn."""
    generator = torch.Generator().manual_seed(0)

    def augment(image: Any, config: Any, seed: int) -> dict[str, Any]:
        crop = torch.rand(3, 4, 4, generator=generator) if fault == "noise" else torch.zeros(3, 4, 4)
        return {"global_crops": [crop], "local_crops": []}

    found = examine_crops(Altered(official_stack, augment=augment), RECIPES[0].config())
    assert not found.passed
    assert "not so: augment" in found.note


def test_an_evaluation_view_that_is_random_is_found(official_stack: OfficialStack) -> None:
    """It has nothing to draw: it must be the same whatever the seed, twice."""
    generator = torch.Generator().manual_seed(0)
    changed = Altered(official_stack, evaluation_view=lambda *_: torch.rand(3, 4, 4, generator=generator))
    found = examine_crops(changed, RECIPES[0].config())
    assert "not so: evaluation view" in found.note


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda whole, skipped, count: whole[:count], "INFINITE from 2 on"),
        (lambda whole, skipped, count: [5] * count, "INFINITE: [5, 5"),
        (lambda whole, skipped, count: [index + 90 for index in whole[skipped:]][:count], "INFINITE: [9"),
    ],
    ids=["nothing skipped", "one image", "foreign images"],
)
def test_orders_that_do_not_start_where_told_are_found(official_stack: OfficialStack, fault: Any, words: str) -> None:
    """A sampler that ignores where to start, reads one image only, or images that there are not."""

    def order(kind: str, n: int, rank: int, world: int, seed: int, skipped: int, count: int) -> list[int]:
        return list(fault(official_stack.data_order(kind, n, rank, world, seed, 0, 20), skipped, count))

    found = examine_orders(Altered(official_stack, data_order=order))
    assert not found.passed
    assert words in found.note
