from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import Pictures, config
from PIL import Image
from torch import Tensor
from torchvision import transforms

from parity.adapters.official import OfficialStack
from port.data.augmentations import Crops, DataAugmentationDINO
from port.data.bad_files import SkippedFile
from port.data.datasets.base import ImageSource
from port.data.loader import batch_requests, make_augmentation, make_data_loader
from port.data.samplers import GlobalOrder, OfficialOrder
from port.data.samples import ATTEMPTS, LoadedBatch
from port.data.seeding import derive_seed, seeded


def numbered(image: Image.Image) -> Crops:
    """Stand in for the views: the picture's index, read off its height, and a draw of each generator."""
    drawn = float(torch.rand(())), random.random(), float(np.random.rand())
    crop = torch.tensor([image.height - 20.0, *drawn]).reshape(1, 2, 2)
    return {"global_crops": [crop, crop + 100], "local_crops": [crop + 200, crop + 300]}


def failing(image: Image.Image) -> Crops:
    """Stand in for a user's augmentation with a fault."""
    raise KeyError("no such stain")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def batches(
    count: int, *overrides: str, source: ImageSource | None = None, rank: int = 0, world_size: int = 1, **options: Any
) -> list[LoadedBatch]:
    """Return the first micro-batches of a loader."""
    arguments = {"start_iteration": 0, **options}
    pictures = Pictures() if source is None else source
    with make_data_loader(pictures, config(*overrides), rank=rank, world_size=world_size, **arguments) as loader:
        return list(islice(loader, count))


def flat(loaded: LoadedBatch) -> list[object]:
    """Return what a batch holds, so that `==` compares it bit for bit."""
    values = [
        (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, Tensor) else value
        for value in loaded.batch.values()
    ]
    return [*values, loaded.skipped]


def indices(loaded: LoadedBatch) -> list[int]:
    """Return the indices of a batch of `numbered` pictures."""
    crops = loaded.batch["collated_global_crops"]
    return [int(index) for index in crops[: len(crops) // 2, 0, 0, 0]]


@pytest.mark.parametrize("bad", [(), (2, 3, 7)], ids=["all good", "some bad"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int, bad: tuple[int, ...]) -> None:
    """Zero, one and two worker processes give the same batches bit for bit, replacements included."""
    source = Pictures(bad=bad)
    alone = batches(5, source=source)
    together = batches(5, f"train.num_workers={workers}", source=source)
    assert [flat(batch) for batch in together] == [flat(batch) for batch in alone]
    assert len({repr(flat(batch)) for batch in alone}) == 5


def test_a_spawned_worker_changes_nothing() -> None:
    """A process that starts anew, as on macOS, gives the same batches."""
    spawned = batches(2, "train.num_workers=1", "data.worker_start=spawn")
    assert [flat(batch) for batch in spawned] == [flat(batch) for batch in batches(2)]


def test_threads_change_nothing() -> None:
    """The main process computes as a worker does, on one thread, and has its threads back afterwards."""
    expected = [flat(batch) for batch in batches(2)]
    torch.set_num_threads(2)
    assert [flat(batch) for batch in batches(2)] == expected
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("sampler", ["corrected", "official"])
def test_starting_later_is_a_continuation(accumulation: int, sampler: str) -> None:
    """Iteration 4's batches are those that an undisturbed run has after 4 iterations, over the end of passes."""
    options = [f"accumulation_steps={accumulation}", f"quirks.sampler={sampler}"]
    whole = batches(4 * accumulation + 3, *options, rank=1, world_size=2, augmentation=numbered)
    later = batches(3, *options, rank=1, world_size=2, augmentation=numbered, start_iteration=4)
    assert [flat(batch) for batch in later] == [flat(batch) for batch in whole[4 * accumulation :]]


def test_ranks_get_what_accumulation_gets() -> None:
    """Two ranks' micro-batches, masks included, are one rank's with two micro-batches per step."""
    accumulated = batches(6, "accumulation_steps=2")
    ranks = [batches(3, rank=rank, world_size=2) for rank in range(2)]
    assert [flat(batch) for batch in accumulated[0::2]] == [flat(batch) for batch in ranks[0]]
    assert [flat(batch) for batch in accumulated[1::2]] == [flat(batch) for batch in ranks[1]]


def test_positions_are_those_of_the_order() -> None:
    """Place i of rank r in micro-step g has the image at (g * W + r) * B + i."""
    order = GlobalOrder(11, seed=5)
    for rank in range(2):
        found = [indices(batch) for batch in batches(4, rank=rank, world_size=2, augmentation=numbered)]
        assert found == [[order((g * 2 + rank) * 3 + i) for i in range(3)] for g in range(4)]


def test_official_s_order_is_chosen_by_the_quirk() -> None:
    """With `quirks.sampler=official` the images come in official's order."""
    order = OfficialOrder(11, world_size=1, batch_size=3)
    found = [indices(batch) for batch in batches(5, "quirks.sampler=official", augmentation=numbered)]
    assert found == [[order(g * 3 + i) for i in range(3)] for g in range(5)]


def test_each_view_draws_from_its_own_seed() -> None:
    """torch, `random` and numpy are seeded by the run's seed and the position, whoever reads the image."""
    (_, second) = batches(2, augmentation=numbered)
    for place in range(3):
        with seeded(derive_seed(5, "sample", 3 + place)):
            expected = float(torch.rand(())), random.random(), float(np.random.rand())
        torch.testing.assert_close(
            tuple(second.batch["collated_global_crops"][place].flatten()[1:].tolist()), expected, rtol=1e-6, atol=0
        )


def test_another_seed_is_another_run() -> None:
    """`train.seed` changes images, views and masks."""
    one, other = (batches(1, f"train.seed={seed}")[0].batch for seed in (0, 1))
    assert not torch.equal(one["collated_global_crops"], other["collated_global_crops"])
    assert not torch.equal(one["collated_masks"], other["collated_masks"])


def test_the_main_process_s_generators_are_left_alone() -> None:
    """Loading draws nothing from the generators that the training loop may use, with or without workers."""
    for workers in (0, 1):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        expected = torch.default_generator.get_state(), random.getstate(), repr(np.random.get_state())
        batches(2, f"train.num_workers={workers}")
        assert torch.equal(torch.default_generator.get_state(), expected[0])
        assert (random.getstate(), repr(np.random.get_state())) == expected[1:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_batch_is_what_official_makes(official_stack: OfficialStack, dtype: torch.dtype) -> None:
    """Official augmentation, masks and collate under the same seeds give the same batch; fp16 is rounding (Q30)."""
    data = official_stack._reference.module("data")
    augmentation = data.DataAugmentationDINO([0.32, 1.0], [0.05, 0.32], 2, global_crops_size=32, local_crops_size=16)
    generator = data.MaskingGenerator((8, 8), max_num_patches=0.5 * 32 // 4 * 32 // 4)
    order = GlobalOrder(11, seed=5)
    samples = []
    for position in range(3, 6):
        with seeded(derive_seed(5, "sample", position)):
            samples.append((augmentation(Pictures().load(order(position))), ()))
    with seeded(derive_seed(5, "masks", 1)):
        expected = data.collate_data_and_cast(samples, (0.1, 0.5), 0.5, dtype, 64, generator)
    quirk = "official" if dtype == torch.float16 else "corrected"
    ours = batches(2, f"quirks.input_dtype={quirk}")[1].batch
    assert expected["collated_global_crops"].dtype == dtype
    assert ours["collated_global_crops"].dtype == torch.float32
    for key, value in ours.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, expected[key].to(value.dtype)), key
        else:
            assert value == expected[key]


def test_the_configured_views_are_cut() -> None:
    """Sizes, number, scales, flavour and blur are those of the configuration."""
    cut = DataAugmentationDINO([0.9, 1.0], [0.2, 0.3], 3, 24, 12, blur="corrected", flavour="histology")
    options = [
        *("crops.global_crops_scale=[0.9,1.0]", "crops.local_crops_scale=[0.2,0.3]", "crops.local_crops_number=3"),
        *("crops.global_crops_size=24", "crops.local_crops_size=12"),
        *("quirks.blur=corrected", "data.augmentation=histology"),
    ]
    batch = batches(1, *options)[0].batch
    with seeded(derive_seed(5, "sample", 0)):
        views = cut(Pictures().load(GlobalOrder(11, 5)(0)))
    assert torch.equal(batch["collated_global_crops"][0], views["global_crops"][0])
    assert torch.equal(batch["collated_local_crops"][::3], torch.stack(views["local_crops"]))
    assert batch["collated_masks"].shape == (6, 36)


def test_bad_files_are_replaced_and_reported() -> None:
    """Every place has a readable image, every bad file met is named, and good images stay where they were."""
    bad = (1, 4, 5)
    good = batches(8, augmentation=numbered)
    replaced = batches(8, augmentation=numbered, source=Pictures(bad=bad))
    order = GlobalOrder(11, seed=5)
    for number, (expected, found) in enumerate(zip(good, replaced, strict=True)):
        asked = [order(number * 3 + place) for place in range(3)]
        assert indices(expected) == asked
        assert [name for name in asked if name not in bad] == [
            new for new, old in zip(indices(found), asked, strict=True) if old not in bad
        ]
        assert not set(indices(found)) & set(bad)
        assert {f"{index}.png" for index in asked if index in bad} <= {file.name for file in found.skipped}
        assert {file.name for file in found.skipped} <= {f"{index}.png" for index in bad}
        assert {file.reason for file in found.skipped} <= {"cut off"}
        assert bool(found.skipped) == bool(set(asked) & set(bad))
    assert sum(len(batch.skipped) for batch in replaced) > 0


def test_replacements_are_the_hashed_positions() -> None:
    """The first replacement's index is the hash of the seed, the position and the attempt."""
    order = GlobalOrder(11, seed=5)
    first = order(0)
    replacement = derive_seed(5, "replacement", 0, 0) % 11
    assert replacement != first
    loaded = batches(1, augmentation=numbered, source=Pictures(bad=(first,)))[0]
    assert indices(loaded)[0] == replacement
    assert loaded.skipped == (SkippedFile(f"{first}.png", "cut off"),)


@pytest.mark.parametrize("workers", [0, 1])
def test_only_bad_files_are_an_error(workers: int) -> None:
    """The error names attempts, files and the key, and has no worker's traceback in it."""
    source = Pictures(4, bad=(0, 1, 2, 3))
    with pytest.raises(
        ValueError, match=rf"^no readable image in {ATTEMPTS} attempts, .* all 4 .*dataset_path"
    ) as caught:
        batches(1, f"train.num_workers={workers}", source=source)
    assert "0.png: cut off" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_faulty_augmentation_is_told_with_its_image(workers: int) -> None:
    """What a user's code raised is in the message, with the image; from a worker also where it was raised."""
    index = GlobalOrder(11, seed=5)(0)
    message = rf"the augmentation failed on {index}.png \(RGB, 40 x {20 + index} pixels\), position 0 .*no such stain"
    with pytest.raises(RuntimeError, match=message) as caught:
        batches(1, f"train.num_workers={workers}", augmentation=failing)
    if workers:
        assert 'raise KeyError("no such stain")' in str(caught.value)
        assert "in failing" in str(caught.value)
    else:
        assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_images_than_a_batch(n: int) -> None:
    """One image fills a batch, with views of its own in each place."""
    first = batches(1, source=Pictures(n))[0].batch["collated_global_crops"]
    assert first.shape == (6, 3, 32, 32)
    assert len({crop.numpy().tobytes() for crop in first}) == 6


def test_a_killed_worker_is_an_error_that_says_what_to_do() -> None:
    """When the system kills a worker, the error names memory, /dev/shm and the key."""
    slow = Pictures()
    with (
        make_data_loader(
            slow, config("train.num_workers=1"), rank=0, world_size=1, start_iteration=0, augmentation=kill
        ) as loader,
        pytest.raises(ChildProcessError, match=r"killed.*train.num_workers=0 .*/dev/shm"),
    ):
        list(islice(loader, 3))


def kill(image: Image.Image) -> Crops:
    """Stand in for the system's memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)
    return numbered(image)


def test_closed_is_closed() -> None:
    """Closing ends the workers, may be repeated, and leaves an iterator that says what it is."""
    loader = make_data_loader(Pictures(), config("train.num_workers=1"), rank=0, world_size=1, start_iteration=0)
    next(loader)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="the data iterator is closed; call make_data_loader again"):
        next(loader)


PROGRAM = """
import multiprocessing, os, signal, sys, time
from itertools import islice
from torch.utils.data._utils import worker
sys.path.insert(0, sys.argv[1])
from pictures import Pictures, config
from port.data.loader import make_data_loader

worker.MP_STATUS_CHECK_INTERVAL = 3600.0  # seconds after which torch alone sees that the parent is gone; 5 by default
loader = make_data_loader(Pictures(), config("train.num_workers=2"), rank=0, world_size=1, start_iteration=0)
next(loader)
workers = [child.pid for child in multiprocessing.active_children()]
for pid in workers:
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
time.sleep(0.2)
assert len(list(islice(loader, 8))) == 8
print(*workers, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_ignore_signals_and_end_with_the_main_process() -> None:
    """Ctrl-C and SIGTERM are the main process's to handle; its workers go when it ends or is killed, unclosed."""
    expected = {"ends": 0, "killed": -signal.SIGKILL}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
    started = {
        end: subprocess.Popen([*command, end], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for end in expected
    }
    for end, code in expected.items():
        output, errors = started[end].communicate(timeout=600)
        assert (end, started[end].returncode, errors) == (end, code, "")
        workers = [int(pid) for pid in output.split()]
        assert len(workers) == min(2, os.cpu_count() or 1)
        deadline = time.monotonic() + 120  # torch alone would take an hour
        while any(is_running(pid) for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def is_running(pid: int) -> bool:
    """Return whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_not_more_workers_than_cpus(caplog: pytest.LogCaptureFixture) -> None:
    """A recipe's ten workers become as many as there are CPUs, which is logged; torch has nothing to warn of."""
    with caplog.at_level(logging.INFO, logger="port"):
        batches(1, "train.num_workers=1000", augmentation=numbered)
    assert any(message.startswith("train.num_workers is 1000, but") for message in caplog.messages)


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["train.batch_size_per_gpu=0"], {}, "train.batch_size_per_gpu is 0, expected at least 1"),
        (["train.num_workers=-1"], {}, "train.num_workers is -1, expected at least 0"),
        (["accumulation_steps=0"], {}, "accumulation_steps is 0, expected at least 1"),
        (["data.worker_start=thread"], {}, "data.worker_start is 'thread', expected auto or, on this system, fork"),
        ([], {"start_iteration": -1}, "start_iteration is -1, expected at least 0"),
        ([], {"rank": 2, "world_size": 2}, "rank is 2, expected 0 to world_size - 1 = 1"),
        ([], {"source": Pictures(0)}, "the data set has 0 images, expected at least an image"),
        (["quirks.sampler=official"], {"source": Pictures(3), "world_size": 4}, "has 3 images, .*for each rank"),
        (["data.augmentation=none"], {}, "data.augmentation is 'none', expected dinov2 or histology"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_impossible_requests_are_refused(overrides: list[str], options: dict[str, Any], message: str) -> None:
    """Each is an error before any process starts, naming the value and what was expected."""
    with pytest.raises(ValueError, match=message):
        batches(1, *overrides, **options)


def test_requests_count_over_all_ranks() -> None:
    """From micro-step 2 on, rank 1 of 3 asks for batches 7 and 10 of all ranks together, two images each."""
    requests = batch_requests(lambda position: 100 + position, 2, rank=1, world_size=3, first=2)
    asked = [next(requests) for _ in range(2)]
    assert [(request.number, request.indices) for request in asked] == [(7, (114, 115)), (10, (120, 121))]


def test_the_augmentation_follows_the_configuration() -> None:
    """Numbers of crops, and the blur that the quirk asks for: view 1 always, where official blurs it never."""
    for blur, p in (("official", 0.0), ("corrected", 1.0)):
        augmentation = make_augmentation(config(f"quirks.blur={blur}", "crops.local_crops_number=4"))
        assert augmentation.local_crops_number == 4
        view = augmentation.global_view_1
        assert isinstance(view, transforms.Compose)
        assert [step.p for step in view.transforms if "GaussianBlur" in repr(step)] == [p]
