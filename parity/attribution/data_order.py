"""Signatures of another data order: official's samplers asked otherwise, until one gives the subject's indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from parity.results import Finding

__all__ = ["attribute_order", "attribute_training_order"]

_SAMPLERS = "dinov2/data/samplers.py"
_TRAINING = "dinov2/train/train.py:199-211"


def attribute_order(reference: Any, case: Any, official: Sequence[int], mine: Sequence[int]) -> Iterator[Finding]:
    """Explain indices that differ from official's.

    Args:
        reference: the official stack, which is asked again with other arguments.
        case: the arguments of `data_order` that were asked for, by name.
        official: official's indices.
        mine: the subject's.
    """
    for sentence, fix, line, expected in _suspects(reference, case):
        if list(mine) == expected != list(official):
            yield Finding("", f"{case.kind}: {sentence}", fix, f"{_SAMPLERS}:{line}")
            return
    yield from _by_content(case, official, mine)


def attribute_training_order(
    reference: Any, case: Any, config_seed: int, official: Sequence[Sequence[int]], mine: Sequence[Sequence[int]]
) -> Iterator[Finding]:
    """Explain batches that differ from those of official's training.

    Args:
        reference: the official stack.
        case: the question to the sampler that official's loader asks, by name.
        config_seed: `train.seed`, which official does not read.
        official: official's batches.
        mine: the subject's.
    """
    sizes = [len(batch) for batch in mine]
    flat = [index for batch in mine for index in batch]
    expected = [index for batch in official for index in batch]
    if len(set(sizes)) > 1 or len(flat) < len(expected):
        yield Finding(
            "",
            f"batches have {_spell(sizes)} images, official's always {len(official[0])}: its stream of indices has no "
            "end, so that a batch reaches into the next pass",
            "use an endless sampler, with drop_last=True",
            _TRAINING,
        )
    seeded_by_config = _ask(reference, case._replace(seed=config_seed))
    if flat == seeded_by_config:
        yield Finding(
            "Q21",
            f"the order is that of train.seed ({config_seed}); official never reads train.seed and seeds its sampler "
            "with the first iteration, 0 in a fresh run",
            "seed the sampler with the first iteration, 0 in a fresh run",
            _TRAINING,
        )
        return
    shared = min(len(flat), len(expected))
    if flat[:shared] != expected[:shared]:
        yield from attribute_order(reference, case, expected[: case.length], flat[: case.length])


def _suspects(reference: Any, case: Any) -> Iterator[tuple[str, str, str, list[int]]]:
    """Yield (what the subject does, next step, official lines, the indices that this gives)."""
    if case.rank:
        expected = _ask(reference, case._replace(seed=case.seed + case.rank))
        yield (
            f"rank {case.rank} shuffles with seed {case.seed + case.rank}, seed and rank added up, so that ranks read "
            "the same images; official shuffles once with the seed and gives each rank its share",
            "seed with the seed alone; the rank is where a rank begins",
            "111-122, 208-219",
            expected,
        )
        yield (
            f"every rank reads rank 0's images; official's rank {case.rank} has its own",
            "begin at the rank, in steps of the number of ranks",
            "31-32, 92-93, 181-182",
            _ask(reference, case._replace(rank=0)),
        )
    if case.advance:
        yield (
            f"the first {case.advance} indices, which were to be skipped, are read again",
            "skip `advance` indices of the rank's own stream",
            "102, 188-199",
            _ask(reference, case._replace(advance=0)),
        )
        yield (
            f"{case.advance} indices of every rank together are skipped; official counts them on this rank",
            "skip `advance` indices of the rank's own stream",
            "102, 188-199",
            _ask(reference, case._replace(advance=case.advance // case.world_size)),
        )
    for kind in reference.sampler_kinds:
        if kind != case.kind and not (kind == "EPOCH" and case.advance):
            yield (
                f"the order is that of official's {kind}",
                f"use official's {case.kind}",
                "17-229",
                _ask(reference, case._replace(kind=kind)),
            )
    for remainder in ("repeated", "kept", "dropped"):
        yield (
            "each pass is a new permutation of all images (seeded with seed and pass added up), as torch's "
            f"DistributedSampler makes, the remainder {remainder}; official's ranks keep the share that they got first "
            "(Q23)",
            f"use official's {case.kind}",
            "208-229",
            _permuted_anew(case, remainder),
        )
    own = case.sample_count // case.world_size
    if own:
        yield (
            "every pass has the order of the first; official shuffles anew in each",
            "shuffle again in each pass",
            "37-46, 111-122, 220-229",
            _repeated(_ask(reference, case._replace(length=case.advance + own, advance=0)), case),
        )
    yield (
        "images are not shuffled",
        "shuffle=True",
        "36-46, 96-108, 194-206",
        _repeated(list(range(case.rank, case.sample_count, case.world_size)), case),
    )
    whole = own * case.world_size
    yield (
        "images are not shuffled, and those that the ranks do not share out evenly are left out",
        "shuffle=True",
        "36-46, 96-108, 194-206",
        _repeated(list(range(case.rank, whole, case.world_size)), case),
    )


def _ask(reference: Any, case: Any) -> list[int]:
    return [int(index) for index in reference.data_order(*case)]


def _repeated(shard: Sequence[int], case: Any) -> list[int]:
    """Return a pass over and over, from the case's start on."""
    if not shard:
        return []
    return [shard[place % len(shard)] for place in range(case.advance, case.advance + case.length)]


def _permuted_anew(case: Any, remainder: str) -> list[int]:
    """Return a rank's share of one permutation after the other."""
    found: list[int] = []
    epoch = 0
    left = case.sample_count % case.world_size
    while case.sample_count >= case.world_size and len(found) < case.advance + case.length:
        generator = torch.Generator().manual_seed(case.seed + epoch)
        whole: list[int] = torch.randperm(case.sample_count, generator=generator).tolist()
        if left and remainder == "repeated":
            whole += whole[: case.world_size - left]
        elif left and remainder == "dropped":
            whole = whole[:-left]
        found += whole[case.rank :: case.world_size]
        epoch += 1
    return found[case.advance : case.advance + case.length]


def _by_content(case: Any, official: Sequence[int], mine: Sequence[int]) -> Iterator[Finding]:
    """Explain by which images a pass has, where no known order gives the indices."""
    own = case.sample_count // case.world_size
    left, right = (set(side[:own]) for side in (official, mine))
    foreign = [index for index in mine if not 0 <= index < case.sample_count]
    if foreign:
        sentence = f"index {foreign[0]} is given, expected 0 to {case.sample_count - 1}"
    elif len(mine) != len(official):
        sentence = f"{len(mine)} indices are given where {len(official)} were asked for: official's stream has no end"
    elif own > 1 and len(right) < own:
        sentence = f"a rank's first pass has {len(right)} different images, official's {own}: some are read twice"
    elif own > 1 and left == right:
        sentence = f"a rank's first pass has official's {own} images in another order"
    elif own > 1:
        sentence = (
            f"a rank's first pass has {len(left & right)} of the {own} images that official's has: "
            "the data set is shared out otherwise"
        )
    else:
        return
    yield Finding("", f"{case.kind}: {sentence}", "compare the sampler with official's", f"{_SAMPLERS}:17-229")


def _spell(sizes: Sequence[int]) -> str:
    return " or ".join(str(size) for size in sorted(set(sizes)))
