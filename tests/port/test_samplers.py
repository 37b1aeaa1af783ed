from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from parity.adapters.official import OfficialStack
from port.data.samplers import GlobalOrder, OfficialOrder, make_order

# Images, ranks, images per batch: remainders of every kind, and batches larger than a shard.
SIZES = [(1, 1, 1), (2, 2, 3), (7, 1, 2), (10, 3, 4), (64, 4, 8), (103, 4, 5), (1000, 8, 16)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def official_sampler(official_stack: OfficialStack, recwarn: pytest.WarningsRecorder) -> Any:
    """Official's class as its training loop uses it; it warns of the images that it drops."""
    return official_stack._reference.module("data.samplers").ShardedInfiniteSampler


def stream(order: GlobalOrder | OfficialOrder, rank: int, world_size: int, batch_size: int) -> Iterator[int]:
    """Yield a rank's indices in the order in which it trains on them."""
    step = 0
    while True:
        first = (step * world_size + rank) * batch_size
        yield from (order(position) for position in range(first, first + batch_size))
        step += 1


@pytest.mark.parametrize(("n", "world_size", "batch_size"), SIZES, ids=str)
def test_official_s_order_over_four_passes(official_sampler: Any, n: int, world_size: int, batch_size: int) -> None:
    """Each rank gets official's indices, for four passes and a bit."""
    order = OfficialOrder(n, world_size=world_size, batch_size=batch_size)
    count = 4 * (n // world_size) + 3
    for rank in range(world_size):
        official = official_sampler(sample_count=n, shuffle=True, seed=0, start=rank, step=world_size)
        expected = list(islice(official, count))
        assert list(islice(stream(order, rank, world_size, batch_size), count)) == expected


def test_official_s_order_with_another_seed_and_after_300_passes(official_sampler: Any) -> None:
    """Seeds beyond 32 bits, which pass 256 reaches, and other seeds than 0 give official's order too."""
    order = OfficialOrder(6, world_size=2, batch_size=3, seed=11)
    official = official_sampler(sample_count=6, shuffle=True, seed=11, start=1, step=2)
    assert list(islice(stream(order, 1, 2, 3), 900)) == list(islice(official, 900))


def test_official_s_order_can_be_entered_anywhere(official_sampler: Any) -> None:
    """Positions asked for backwards have the indices of the uninterrupted stream: resuming is a continuation."""
    official = official_sampler(sample_count=23, shuffle=True, seed=0, start=0, step=1)
    expected = list(islice(official, 100))
    order = OfficialOrder(23, world_size=1, batch_size=4)
    assert [order(position) for position in reversed(range(100))] == expected[::-1]


def test_official_s_order_never_sees_the_remainder() -> None:
    """Of 103 images on 4 ranks three are left out for good (Q24), and ranks share none (Q23)."""
    order = OfficialOrder(103, world_size=4, batch_size=25)
    shards = [set(islice(stream(order, rank, 4, 25), 100)) for rank in range(4)]
    assert [len(shard) for shard in shards] == [25] * 4
    assert len(set.union(*shards)) == 100


def test_official_s_order_is_quick_for_many_images() -> None:
    """A pass over 200,000 images is shuffled in far less than the second that official's loop takes."""
    order = OfficialOrder(200_000, world_size=1, batch_size=64)
    start = time.process_time()  # what other processes take does not count
    order(199_999)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(("n", "world_size", "batch_size"), SIZES, ids=str)
def test_each_pass_has_every_image_once(n: int, world_size: int, batch_size: int) -> None:
    """Over all ranks together no image is left out or doubled in a pass, whatever the remainders."""
    order = GlobalOrder(n, seed=3)
    streams = [stream(order, rank, world_size, batch_size) for rank in range(world_size)]
    together: list[int] = []
    while len(together) < 3 * n:
        for rank_stream in streams:
            together += islice(rank_stream, batch_size)
    for number in range(3):
        assert Counter(together[number * n : (number + 1) * n]) == Counter(range(n))


def test_passes_and_seeds_differ() -> None:
    """Another pass or another seed is another order; the same seed is the same."""
    orders = {seed: [GlobalOrder(50, seed)(position) for position in range(100)] for seed in (0, 1)}
    assert orders[0][:50] != orders[0][50:]
    assert orders[0] != orders[1]
    assert orders[0] == [GlobalOrder(50, 0)(position) for position in range(100)]


def test_the_order_is_uniform() -> None:
    """Over 1000 passes each of four images is first about 250 times (five standard deviations)."""
    order = GlobalOrder(4, seed=0)
    firsts = Counter(order(4 * number) for number in range(1000))
    assert all(abs(firsts[index] - 250) < 5 * (1000 * 0.25 * 0.75) ** 0.5 for index in range(4))


def test_any_position_is_at_hand() -> None:
    """A position far into a run needs the permutation of its pass alone."""
    order = GlobalOrder(1000, seed=0)
    far = 10**9 * 1000
    start = time.process_time()  # what other processes take does not count
    last_pass = [order(far + place) for place in range(1000)]
    assert time.process_time() - start < 1
    assert sorted(last_pass) == list(range(1000))


def test_ranks_take_turns_as_accumulated_batches_do() -> None:
    """Two ranks get in one step what one rank gets in two."""
    order = GlobalOrder(17, seed=0)
    one = list(islice(stream(order, 0, 1, 3), 12))
    ranks = [list(islice(stream(order, rank, 2, 3), 6)) for rank in range(2)]
    assert one == ranks[0][:3] + ranks[1][:3] + ranks[0][3:] + ranks[1][3:]


def test_the_quirk_chooses_the_order() -> None:
    """`official` ignores the seed, as official code does; `corrected` does not."""
    by_quirk = {
        (quirk, seed): [make_order(quirk, 30, seed=seed, world_size=1, batch_size=4)(p) for p in range(30)]
        for quirk in ("official", "corrected")
        for seed in (0, 1)
    }
    assert by_quirk["official", 0] == by_quirk["official", 1]
    assert by_quirk["corrected", 0] != by_quirk["corrected", 1]


@pytest.mark.parametrize(
    ("quirk", "n", "message"),
    [
        ("corrected", 0, r"the data set has 0 images, expected at least an image \(1\); check train.dataset_path"),
        ("official", 3, r"the data set has 3 images, expected at least an image for each rank .* \(4\)"),
    ],
)
def test_too_few_images_are_refused(quirk: str, n: int, message: str) -> None:
    """Nothing to read is an error; official's sampler would search for ever."""
    with pytest.raises(ValueError, match=message):
        make_order(quirk, n, seed=0, world_size=4, batch_size=2)
