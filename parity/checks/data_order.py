"""Family `augment`, the order: which image a rank reads when, sampler by sampler and in the loader of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from omegaconf import DictConfig

from parity.attribution.data_order import attribute_order, attribute_training_order
from parity.checks.augment import explainable, small_config
from parity.checks.base import Check, Context, NotRunError, Observation, Partly
from parity.compare import exact
from parity.seeding import seeded

__all__ = ["CHECKS", "OrderCase"]

_SAMPLERS = "dinov2/data/samplers.py:17-229"


class OrderCase(NamedTuple):
    """One question to a sampler; the fields are the arguments of `data_order`, `length` its `count`."""

    kind: str
    sample_count: int
    rank: int
    world_size: int
    seed: int
    advance: int
    length: int

    def __str__(self) -> str:
        return (
            f"{self.kind}/{self.sample_count} images/rank {self.rank} of {self.world_size}/seed {self.seed}"
            f"/from {self.advance}"
        )


def _cases(kind: str) -> Iterator[OrderCase]:
    """Several passes; images that the ranks do not share out evenly; other seeds; a start on the way.

    A start is at less than a pass, or on one rank: official's own sharded sampler counts an advance beyond the data
    set in all ranks' images although each rank has its own position (Q22).
    """
    for sample_count, world_size in ((1, 1), (7, 1), (10, 3), (64, 4), (103, 4), (1000, 8)):
        for rank in sorted({0, world_size // 2, world_size - 1}):
            length = 3 * (sample_count // world_size) + 5
            for seed in (0, 1, 12345):
                yield OrderCase(kind, sample_count, rank, world_size, seed, 0, length)
    if kind == "EPOCH":
        return  # official's refuses to start on the way
    for sample_count, rank, world_size, advance in ((103, 2, 4, 31), (64, 3, 4, 16), (10, 0, 1, 27), (7, 0, 1, 7)):
        yield OrderCase(kind, sample_count, rank, world_size, 3, advance, 2 * sample_count)
    yield OrderCase(kind, 6, 1, 2, 11, 0, 900)  # 300 passes: seeds of the sharded samplers exceed 32 bits


def _orders(context: Context) -> Iterator[Observation]:
    """Every index that each sampler gives, for the samplers that the subject has."""
    known = tuple(context.reference.sampler_kinds)
    offered = tuple(getattr(context.subject, "sampler_kinds", ()))
    kinds = [kind for kind in known if kind in offered]
    if not kinds:
        raise NotRunError(
            f"the subject has no attribute sampler_kinds that names one of {', '.join(known)}: "
            "say which of official's samplers data_order answers for"
        )
    if len(kinds) < len(known):
        lacking = [kind for kind in known if kind not in kinds]
        yield Partly(f"compared: {', '.join(kinds)}; the subject has no {', '.join(lacking)}")
    for kind in kinds:
        first = None
        for case in _cases(kind):
            official, mine = (_ordered(stack, case) for stack in (context.reference, context.subject))
            comparison = exact(f"order/{case}", official, mine)
            yield comparison
            if not comparison.passed and (first is None or len(set(official)) > len(set(first[1]))):
                first = case, official, mine
        if first is not None and explainable(context):
            yield from attribute_order(context.reference, *first)


def _ordered(stack: Any, case: OrderCase) -> list[int]:
    seeded(case.seed)
    return [int(index) for index in stack.data_order(*case)]


def _training(context: Context) -> Iterator[Observation]:
    """The batches of a fresh run: the loader that official training builds, on each rank."""
    config = small_config()
    config.train.batch_size_per_gpu = 4
    # Official never reads this seed, and starts with that of the first iteration, 0 (Q21).
    config.train.seed = 7
    shown = False
    for sample_count, world_size in ((40, 1), (103, 4), (30, 2), (11, 3)):
        iterations = 2 * sample_count // (world_size * 4) + 3
        for rank in range(world_size):
            official, mine = (
                _trained(stack, config, sample_count, rank, world_size, iterations)
                for stack in (context.reference, context.subject)
            )
            name = f"training/{sample_count} images/rank {rank} of {world_size}"
            yield exact(f"{name}/batch sizes", [len(batch) for batch in official], [len(batch) for batch in mine])
            comparison = exact(f"{name}/order", _flat(official), _flat(mine))
            yield comparison
            if not comparison.passed and not shown and explainable(context):
                shown = True
                case = OrderCase("SHARDED_INFINITE", sample_count, rank, world_size, 0, 0, 4 * iterations)
                yield from attribute_training_order(context.reference, case, config.train.seed, official, mine)


def _trained(stack: Any, config: DictConfig, *arguments: int) -> list[list[int]]:
    seeded(arguments[1])  # the rank: what a loader draws otherwise must not be the same on all of them
    return [[int(index) for index in batch] for batch in stack.training_order(config, *arguments)]


def _flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


CHECKS = (
    Check(
        "augment.samplers",
        "L1",
        "the indices that a sampler gives: each rank, several passes, remainders, seeds, starting on the way",
        (_SAMPLERS, "dinov2/data/loaders.py:100-163"),
        ("data_order",),
        _orders,
    ),
    Check(
        "augment.training_order",
        "L1",
        "the batches of a fresh run: the sampler, seed, batch size and last batch of official training's loader",
        ("dinov2/train/train.py:194-211", "dinov2/data/loaders.py:100-223", _SAMPLERS),
        ("training_order",),
        _training,
    ),
)
