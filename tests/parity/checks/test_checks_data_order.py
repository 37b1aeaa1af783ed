from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from forks import assert_no_alarm, assert_seen, check, fork, port

from parity.adapters.official import OfficialStack
from parity.checks.data_order import OrderCase

CHECKS = ("augment.samplers", "augment.training_order")

Order = Callable[..., list[int]]


@pytest.mark.parametrize("name", CHECKS)
def test_the_reference_equals_itself(official_stack: OfficialStack, name: str) -> None:
    """Every index of every sampler, without a finding."""
    result = check(official_stack, official_stack, name)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared
    assert result.reason == ""


@pytest.mark.parametrize("name", CHECKS)
def test_port_passes(official_stack: OfficialStack, name: str) -> None:
    """Every index of the sampler that training uses; the ones that `port` has not are named, not passed."""
    result = check(official_stack, port(), name)
    assert_no_alarm(result)
    if name == "augment.samplers":
        assert {c.name.split("/")[1] for c in result.comparisons} == {"SHARDED_INFINITE"}
        assert "the subject has no SHARDED_INFINITE_NEW, INFINITE, EPOCH" in result.reason


def test_what_is_asked(official_stack: OfficialStack) -> None:
    """Each of official's samplers, with remainders, ranks in the middle, several passes and starts on the way."""
    result = check(official_stack, official_stack, "augment.samplers")
    names = [c.name for c in result.comparisons]
    assert len(set(names)) == len(names)
    for kind in ("SHARDED_INFINITE", "SHARDED_INFINITE_NEW", "INFINITE", "EPOCH"):
        own = [name for name in names if name.startswith(f"order/{kind}/")]
        assert any("/103 images/rank 2 of 4/seed 12345/" in name for name in own)
        assert any(name.endswith("from 31") for name in own) is (kind != "EPOCH")
    assert str(OrderCase("EPOCH", 7, 0, 1, 5, 0, 9)) == "EPOCH/7 images/rank 0 of 1/seed 5/from 0"


def ordered(order: Order, kinds: Sequence[str] = ("SHARDED_INFINITE",)) -> Any:
    """A fork with a sampler of its own."""
    changed: Any = fork(data_order=order)
    changed.sampler_kinds = tuple(kinds)
    return changed


def _shard(n: int, rank: int, world: int, seed: int) -> list[int]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[rank::world].tolist()[: n // world]


def _own(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    return port().data_order(kind, n, rank, world, seed, advance, count)


def _seed_and_rank(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    return _own(kind, n, rank, world, seed + rank, advance, count)


def _advance_forgotten(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    return _own(kind, n, rank, world, seed, 0, count)


def _advance_of_all_ranks(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    return _own(kind, n, rank, world, seed, advance // world, count)


def _one_pass_repeated(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    first = _own(kind, n, rank, world, seed, 0, n // world)
    return [first[place % len(first)] for place in range(advance, advance + count)]


def _rank_forgotten(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    return _own(kind, n, 0, world, seed, advance, count)


def _in_order(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    shard = range(rank, n, world)
    return [shard[place % len(shard)] for place in range(advance, advance + count)]


def _padded(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    """As `DistributedSampler`: a permutation of the whole per pass, the remainder filled up from its start."""
    found: list[int] = []
    epoch = 0
    while len(found) < advance + count:
        whole = torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        whole += whole[: -n % world]
        found += whole[rank::world]
        epoch += 1
    return found[advance : advance + count]


def _ranked_anew(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    """Another permutation, shared out in blocks."""
    whole = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 100)).tolist()
    shard = whole[rank * (n // world) : (rank + 1) * (n // world)]
    return [shard[place % len(shard)] for place in range(advance, advance + count)]


def _ends(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    return _own(kind, n, rank, world, seed, advance, min(count, n // world))


def _beyond(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    return [index + n for index in _own(kind, n, rank, world, seed, advance, count)]


def _drawn_with_repeats(kind: str, n: int, rank: int, world: int, seed: int, advance: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, n, (advance + count,), generator=generator).tolist()[advance:]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (_seed_and_rank, "seed and rank added up, so that ranks read the same images"),
        (_advance_forgotten, "which were to be skipped, are read again"),
        (_advance_of_all_ranks, "indices of every rank together are skipped; official counts them on this rank"),
        (_one_pass_repeated, "every pass has the order of the first; official shuffles anew in each"),
        (_rank_forgotten, "every rank reads rank 0's images"),
        (_in_order, "images are not shuffled"),
        (_padded, "as torch's DistributedSampler makes, the remainder repeated"),
        (_ranked_anew, "a rank's first pass has"),
        (_ends, "indices are given where"),
        (_beyond, "is given, expected 0 to"),
        (_drawn_with_repeats, "different images, official's"),
    ],
)
def test_other_orders_are_seen_and_named(official_stack: OfficialStack, order: Order, words: str) -> None:
    """Each way in which a sampler goes wrong is one finding."""
    result = check(official_stack, ordered(order), "augment.samplers")
    assert_seen(result, r"^order/SHARDED_INFINITE/", "", words)
    assert len(result.findings) == 1


@pytest.mark.parametrize(("asked", "given"), [("SHARDED_INFINITE", "INFINITE"), ("INFINITE", "EPOCH")])
def test_another_of_official_s_samplers_is_recognised(official_stack: OfficialStack, asked: str, given: str) -> None:
    """A fork that uses official's sampler of another name is told which."""

    def order(kind: str, *rest: Any) -> list[int]:
        advance = rest[4]
        return official_stack.data_order(kind if advance and given == "EPOCH" else given, *rest)

    result = check(official_stack, ordered(order, [asked]), "augment.samplers")
    assert_seen(result, rf"^order/{asked}/", "", f"the order is that of official's {given}")


def test_a_fork_that_names_no_sampler_is_not_run(official_stack: OfficialStack) -> None:
    """Without `sampler_kinds`, or with names of its own alone, nothing is compared."""
    for kinds in ((), ("WEIGHTED",)):
        result = check(official_stack, ordered(_own, kinds), "augment.samplers")
        assert (result.status, result.compared) == ("not_run", 0)
        assert "sampler_kinds that names one of SHARDED_INFINITE" in result.reason


def trained(batches: Callable[..., list[list[int]]]) -> Any:
    """A fork with another loader."""
    return fork(training_order=batches)


def _flat(config: Any, n: int, rank: int, world: int, iterations: int, seed: int) -> list[list[int]]:
    size = config.train.batch_size_per_gpu
    order = port().data_order("SHARDED_INFINITE", n, rank, world, seed, 0, size * iterations)
    return [order[start : start + size] for start in range(0, len(order), size)]


def _config_seed(config: Any, n: int, rank: int, world: int, iterations: int) -> list[list[int]]:
    return _flat(config, n, rank, world, iterations, config.train.seed)


def _rank_seed(config: Any, n: int, rank: int, world: int, iterations: int) -> list[list[int]]:
    return _flat(config, n, rank, world, iterations, rank)


def _last_dropped(config: Any, n: int, rank: int, world: int, iterations: int) -> list[list[int]]:
    """Batches within a pass: the images that fill none are left out."""
    size, own = config.train.batch_size_per_gpu, n // world
    order = port().data_order("SHARDED_INFINITE", n, rank, world, 0, 0, own * (iterations + 2))
    passes = [order[start : start + own] for start in range(0, len(order), own)]
    return [p[b : b + size] for p in passes for b in range(0, own - size + 1, size)][:iterations]


def _last_kept(config: Any, n: int, rank: int, world: int, iterations: int) -> list[list[int]]:
    """Batches within a pass, of which the last is shorter."""
    size, own = config.train.batch_size_per_gpu, n // world
    order = port().data_order("SHARDED_INFINITE", n, rank, world, 0, 0, own * (iterations + 2))
    passes = [order[start : start + own] for start in range(0, len(order), own)]
    return [p[b : b + size] for p in passes for b in range(0, own, size)][:iterations]


@pytest.mark.parametrize(
    ("batches", "finding", "words"),
    [
        (_config_seed, "Q21", "the order is that of train.seed (7); official never reads train.seed"),
        (_rank_seed, "", "seed and rank added up"),
        (_last_dropped, "", ""),
        (_last_kept, "", "batches have 1 or 4 images, official's always 4"),
    ],
)
def test_other_batches_are_seen_and_named(
    official_stack: OfficialStack, batches: Callable[..., list[list[int]]], finding: str, words: str
) -> None:
    """The seed of the configuration or of the rank, and batches that end with a pass."""
    result = check(official_stack, trained(batches), "augment.training_order")
    assert_seen(result, r"^training/", finding if words else None, words)


def test_the_training_order_is_compared_by_rank(official_stack: OfficialStack) -> None:
    """Sizes and indices of ten ranks in runs of one, two, three and four."""
    names = [c.name for c in check(official_stack, port(), "augment.training_order").comparisons]
    assert len(names) == 2 * (1 + 4 + 2 + 3)
    assert "training/103 images/rank 3 of 4/order" in names
