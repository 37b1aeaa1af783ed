from __future__ import annotations

from typing import Any

import pytest

from parity.attribution.data_order import attribute_order, attribute_training_order
from parity.checks.data_order import OrderCase


class Counting:
    """A reference whose order is a plain function of its arguments, so that each can be read off the result."""

    sampler_kinds = ("SHARDED_INFINITE", "INFINITE", "EPOCH")

    def data_order(
        self, kind: str, sample_count: int, rank: int, world_size: int, seed: int, advance: int, count: int
    ) -> list[int]:
        """Numbers that kind, rank, seed and position decide; no two arguments give the same."""
        first = 7 * self.sampler_kinds.index(kind) + 13 * rank + 29 * seed
        return [(first + 3 * place * place) % sample_count for place in range(advance, advance + count)]


REFERENCE = Counting()
CASE = OrderCase("SHARDED_INFINITE", 101, 1, 2, 3, 4, 60)


def told(mine: list[int], case: OrderCase = CASE) -> list[str]:
    """What is said of an order."""
    return [f.sentence for f in attribute_order(REFERENCE, case, REFERENCE.data_order(*case), mine)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 4}, "rank 1 shuffles with seed 4, seed and rank added up"),
        ({"rank": 0}, "every rank reads rank 0's images; official's rank 1 has its own"),
        ({"advance": 0}, "the first 4 indices, which were to be skipped, are read again"),
        ({"advance": 2}, "4 indices of every rank together are skipped"),
        ({"kind": "INFINITE"}, "the order is that of official's INFINITE"),
    ],
)
def test_the_argument_that_was_taken_otherwise_is_named(changed: dict[str, Any], words: str) -> None:
    """The reference is asked again with each likely mistake; the one that gives the order is told."""
    (sentence,) = told(REFERENCE.data_order(*CASE._replace(**changed)))
    assert sentence.startswith("SHARDED_INFINITE: ")
    assert words in sentence


def test_orders_without_shuffling_are_named() -> None:
    """With and without the images that the ranks do not share out evenly."""
    case = CASE._replace(advance=0, length=120)
    shard = list(range(1, 101, 2))
    (sentence,) = told((shard * 3)[:120], case)
    assert sentence.endswith("images are not shuffled")
    case = case._replace(rank=0)
    (sentence,) = told((list(range(0, 100, 2)) * 3)[:120], case)
    assert "those that the ranks do not share out evenly are left out" in sentence


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        ([200] * 60, "index 200 is given, expected 0 to 100"),
        ([5] * 60, "a rank's first pass has 1 different images, official's 50: some are read twice"),
        (list(range(41)), "41 indices are given where 60 were asked for"),
    ],
)
def test_an_order_of_no_known_cause_is_described(mine: list[int], words: str) -> None:
    """Foreign indices, repeats and an end are told as what they are."""
    (sentence,) = told(mine)
    assert words in sentence


def test_batches_of_other_sizes_come_first() -> None:
    """Then the seed of the configuration; both are told."""
    case = CASE._replace(seed=0, rank=0, advance=0, length=12)
    official = REFERENCE.data_order(*case)
    mine = REFERENCE.data_order(*case._replace(seed=9))
    batches = [mine[:4], mine[4:7], mine[7:12]]
    found = list(attribute_training_order(REFERENCE, case, 9, [official[i : i + 4] for i in range(0, 12, 4)], batches))
    assert [f.id for f in found] == ["", "Q21"]
    assert "batches have 3 or 4 or 5 images, official's always 4" in found[0].sentence
    assert "the order is that of train.seed (9)" in found[1].sentence


def test_an_order_that_is_official_s_has_no_cause() -> None:
    """Batches cut otherwise from official's own order are told by their sizes alone."""
    case = CASE._replace(seed=0, rank=0, advance=0, length=12)
    official = REFERENCE.data_order(*case)
    batches = [official[:5], official[5:12]]
    found = list(attribute_training_order(REFERENCE, case, 9, [official[:4], official[4:8], official[8:]], batches))
    assert len(found) == 1
    assert "batches have 5 or 7 images" in found[0].sentence
