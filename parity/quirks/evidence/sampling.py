"""What official's sampler does when it is resumed, advanced, or asked for a second pass."""

from __future__ import annotations

from itertools import islice
from typing import Any

from parity.adapters.official_step import options_of_official_loader
from parity.quirks.evidence.tools import CallCounter, Observation, small_config
from parity.quirks.sources import attributes_read
from parity.reference import Reference

__all__ = ["advance", "fixed_shard", "python_loop", "resumed_order", "unseen"]


def _sampler(reference: Reference, count: int, **options: Any) -> Any:
    """Return the sampler of official training over `count` images."""
    options = {"start": 0, "step": 1, "seed": 0, **options}
    return reference.module("data.samplers").ShardedInfiniteSampler(sample_count=count, shuffle=True, **options)


def _taken(sampler: Any, start: int, stop: int) -> list[int]:
    return [int(index) for index in islice(sampler, start, stop)]


def resumed_order(reference: Reference) -> Observation:
    """Let official training resume at iteration 7 with train.seed 123, and see what its loader is given."""
    options = options_of_official_loader(reference, small_config(train__seed=123), start=7)
    seed, advanced = options.get("seed"), options.get("sampler_advance")
    readers = attributes_read(reference, "train", "seed")
    continued = _taken(_sampler(reference, 40), 14, 24)  # after 7 batches of 2
    resumed = _taken(_sampler(reference, 40, seed=seed, advance=advanced), 0, 10)
    confirmed = seed == 7 and advanced == 0 and not readers and continued != resumed
    seen = (
        f"resumed at 7 with train.seed 123: seed={seed}, sampler_advance={advanced}; train.seed is read in "
        f"{len(readers)} places; the next 10 images are {'the same' if continued == resumed else 'others'}"
    )
    return Observation(confirmed, seen)


def advance(reference: Reference) -> Observation:
    """Skip images on one rank of four and on a rank alone, by `advance` and by taking them."""
    wrong = {}
    for world in (4, 1):
        wrong[world] = [
            n
            for n in (30, 99, 100, 130)
            if _taken(_sampler(reference, 100, step=world, advance=n), 0, 30)
            != _taken(_sampler(reference, 100, step=world), n, n + 30)
        ]
    places = {world: ", ".join(map(str, at)) or "none" for world, at in wrong.items()}
    seen = f"30, 99, 100 and 130 skipped, N = 100: wrong at {places[4]} in world 4, at {places[1]} in world 1"
    return Observation(wrong == {4: [100, 130], 1: []}, seen)


def fixed_shard(reference: Reference) -> Observation:
    """Take two passes of one rank of four."""
    first, second = (_taken(_sampler(reference, 100, step=4), *span) for span in ((0, 25), (25, 50)))
    same, order = set(first) == set(second), first == second
    images, place = "the same" if same else "other", "the same" if order else "another"
    seen = f"the second pass has {images} 25 images, in {place} order"
    return Observation(same and not order, seen)


def unseen(reference: Reference) -> Observation:
    """Take three passes of each of four ranks over 103 images."""
    met = {i for rank in range(4) for i in _taken(_sampler(reference, 103, start=rank, step=4), 0, 75)}
    missing = 103 - len(met)
    return Observation(missing == 3, f"{missing} of 103 images never seen in three passes of four ranks")


def python_loop(reference: Reference) -> Observation:
    """Count the random draws of one pass over 200 images, and read which sampler official training asks for."""
    kind = options_of_official_loader(reference, small_config())["sampler_type"].name
    counter = CallCounter("randint")
    with counter:
        _taken(_sampler(reference, 200, use_new_shuffle_tensor_slice=kind == "SHARDED_INFINITE_NEW"), 0, 200)
    draws = counter.calls["randint"]
    return Observation(draws >= 199, f"{kind}: {draws} calls of torch.randint for one pass over 200 images")
