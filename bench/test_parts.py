"""Parts of a step, `port`'s beside official's: each pair does the same work, which is checked before it is timed."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.conftest import CLOCK, Measure
from bench.figures import Measured
from bench.parts import masked_rows, time_losses, time_update
from bench.settings import Settings
from bench.turns import Contender
from bench.worker import Worker
from parity.reference import Reference
from parity.seeding import seeded
from parity.states import logits, samples
from port.data import MaskingGenerator, collate_data_and_cast
from port.data.augmentations import DataAugmentationDINO
from port.data.datasets.decode import decode_image
from port.losses import iBOTPatchLoss

SIDES = ("official", "port")
GRIDS = (14, 16, 37)
N_MASKS = 64
RATIOS = (0.1, 0.5)


def note(benchmark: Any, name: str, side: str, per_call: int = 1) -> None:
    """Say what a benchmark is, for the report, and how many a second it does."""
    benchmark.group = name.replace("_", " ")
    benchmark.extra_info.update(kind="micro", what=f"{name} {side}", per_s=per_call / benchmark.stats.stats.min)


def taken_in_turns(found: Mapping[str, Measured], side: str) -> dict[str, float | None]:
    """Return peak memory of a side, and of port's how much faster it was than official's, where that was measured."""
    info = found[side].extra_info(official=found.get("official"))
    ratio = {"over_official": info.get("over_official")} if side == "port" else {}
    return {"peak_mib": info["peak_mib"], **ratio}


def note_ratio(
    benchmark: Any,
    side: str,
    call: Callable[[str], object],
    rounds: int = 30,
    timer: Callable[[], float] = time.process_time,
) -> None:
    """Say, beside `port`'s time, official's fastest over its own: taken in turns, so that a busy minute slows both.

    Args:
        benchmark: of one side.
        side: whose it is; nothing is done for official's.
        call: is given the side.
        rounds: calls of each side.
        timer: seconds; the process's by default, which other processes do not lengthen.
    """
    if side != "port":
        return
    times = dict.fromkeys(SIDES, float("inf"))
    for _ in range(rounds):
        for name in SIDES:
            began = timer()
            call(name)
            times[name] = min(times[name], timer() - began)
    benchmark.extra_info["over_official"] = times["official"] / times["port"]


def generators(official: Reference, grid: int) -> dict[str, Callable[[int], NDArray[np.bool_]]]:
    """Return both mask generators for a grid of patches."""
    theirs = official.module("data.masking").MaskingGenerator
    options: dict[str, Any] = {"input_size": (grid, grid), "max_num_patches": grid // 2 * grid}
    return {"official": theirs(**options), "port": MaskingGenerator(**options)}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("grid", GRIDS)
def test_masks(benchmark: Any, official: Reference, grid: int, side: str) -> None:
    """Draw masks at ratios from 0.1 to 0.5, the same for both sides, bit for bit."""
    counts = [int(grid * grid * ratio) for ratio in np.linspace(*RATIOS, N_MASKS)]
    both = generators(official, grid)
    drawn = {}
    for name, generator in both.items():
        random.seed(grid)
        drawn[name] = [generator(count) for count in counts]
    assert all(np.array_equal(*pair) for pair in zip(*drawn.values(), strict=True)), "masks are not official's"

    def draw(name: str) -> None:
        random.seed(grid)
        for count in counts:
            both[name](count)

    benchmark(draw, side)
    note(benchmark, f"masks_{grid}", side, N_MASKS)
    note_ratio(benchmark, side, draw)


@pytest.mark.parametrize("side", SIDES)
def test_collate(benchmark: Any, official: Reference, settings: Settings, side: str) -> None:
    """Stack the crops of a batch and draw its masks; both sides give the same batch."""
    both: dict[str, Callable[..., Any]] = {
        "official": official.module("data.collate").collate_data_and_cast,
        "port": collate_data_and_cast,
    }
    made = samples(settings.batch, settings.global_size, settings.local_size, settings.local_crops, 0)
    given = [(sample, ()) for sample in made]
    grid = settings.global_size // 16

    def collate(name: str) -> Any:
        seeded(0)
        generator = generators(official, grid)[name]
        return both[name](given, RATIOS, 0.5, torch.float32, n_tokens=grid * grid, mask_generator=generator)

    mine, theirs = collate("port"), collate("official")
    assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])) for key in theirs)
    benchmark(collate, side)
    note(benchmark, "collate", side, settings.batch)
    note_ratio(benchmark, side, collate)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("prototypes", [65_536, 131_072])
@pytest.mark.benchmark(timer=CLOCK)
def test_losses(benchmark: Any, measure: Measure, settings: Settings, prototypes: int, side: str) -> None:
    """Compute DINO's and iBOT's losses and their gradients by the student's logits."""
    chosen = replace(settings, prototypes=prototypes, precision="fp32", compile=False)

    def contender(name: str) -> Contender:
        what = f"losses of {name}, {prototypes:,} prototypes"
        return Contender(partial(Worker, time_losses, what, chosen, name), chosen.batch)

    found = measure("side", contender)
    note(benchmark, f"losses_{prototypes}", side, settings.batch)
    benchmark.extra_info.update(taken_in_turns(found, side))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.benchmark(timer=CLOCK)
def test_update(benchmark: Any, measure: Measure, settings: Settings, side: str) -> None:
    """Step AdamW over the student and move the teacher towards it."""
    chosen = replace(settings, compile=False)

    def contender(name: str) -> Contender:
        what = f"optimizer and moving average of {name}"
        return Contender(partial(Worker, time_update, what, chosen, name), chosen.batch)

    found = measure("side", contender)
    note(benchmark, "update", side)
    benchmark.extra_info.update(taken_in_turns(found, side))


@pytest.mark.parametrize("side", SIDES)
def test_sinkhorn(benchmark: Any, official: Reference, settings: Settings, side: str) -> None:
    """Assign the masked patches of a batch to prototypes, three passes."""
    rows = logits(masked_rows(settings), settings.prototypes, 0)
    count = torch.tensor([len(rows)])
    theirs = official.module("loss").iBOTPatchLoss(settings.prototypes)
    both = {"official": theirs, "port": iBOTPatchLoss(settings.prototypes, kernels=settings.kernels)}

    def assign(name: str) -> torch.Tensor:
        assigned: torch.Tensor = both[name].sinkhorn_knopp_teacher(
            rows, teacher_temp=0.07, n_masked_patches_tensor=count.clone()
        )
        return assigned

    torch.testing.assert_close(assign("port"), assign("official"))
    benchmark.pedantic(assign, args=(side,), rounds=settings.rounds)
    note(benchmark, "sinkhorn", side, len(rows))
    note_ratio(benchmark, side, assign, settings.rounds, time.perf_counter)  # by the clock, as it uses all threads


def jpeg() -> bytes:
    """Return a photograph-like JPEG of 500 x 375 pixels: smooth noise, as ImageNet's average size."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
    return data.getvalue()


@pytest.mark.parametrize("side", SIDES)
def test_decode(benchmark: Any, official: Reference, side: str) -> None:
    """Decode a JPEG to RGB; images per second of one core."""
    data = jpeg()
    decoder = official.module("data.datasets.decoders").ImageDataDecoder
    both: dict[str, Callable[[], Image.Image]] = {
        "official": lambda: decoder(data).decode(),
        "port": lambda: decode_image(data, "bench"),
    }
    assert np.array_equal(np.asarray(both["port"]()), np.asarray(both["official"]()))
    benchmark(both[side])
    note(benchmark, "decode", side)
    note_ratio(benchmark, side, lambda name: both[name]())


@pytest.mark.parametrize("side", SIDES)
def test_augment(benchmark: Any, official: Reference, settings: Settings, side: str) -> None:
    """Cut and distort the crops of an image; images per second of one core. The crops are the same bit for bit."""
    image = decode_image(jpeg(), "bench")
    crops = settings.config().crops
    options: dict[str, Any] = {"global_crops_size": settings.global_size, "local_crops_size": settings.local_size}
    scales = (crops.global_crops_scale, crops.local_crops_scale, settings.local_crops)
    both: dict[str, Callable[..., Any]] = {
        "official": official.module("data.augmentations").DataAugmentationDINO(*scales, **options),
        "port": DataAugmentationDINO(*scales, **options),
    }
    made = {}
    for name, augment in both.items():
        seeded(0)
        made[name] = augment(image)
    for key in ("global_crops", "local_crops"):
        assert all(torch.equal(*pair) for pair in zip(made["port"][key], made["official"][key], strict=True))
    benchmark.pedantic(both[side], args=(image,), rounds=10, warmup_rounds=1)
    note(benchmark, "augment", side)
    note_ratio(benchmark, side, lambda name: both[name](image), 10)
