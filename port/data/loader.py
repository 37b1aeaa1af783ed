"""From a data set and a configuration to the batches of a run, starting anywhere."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any

import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from port.data.augmentations import DataAugmentationDINO
from port.data.collate import Batch, collate_data_and_cast
from port.data.datasets.base import ImageSource
from port.data.masking import MaskingGenerator, max_num_patches
from port.data.samplers import Order, make_order
from port.data.samples import Augmentation, LoadedBatch, MicroBatchReader, Request, UnreadableDataError
from port.signals import ignore_stop_signals

__all__ = ["DataIterator", "batch_requests", "make_augmentation", "make_data_loader"]

_WATCH_SECONDS = 0.5
_logger = logging.getLogger("port")


def make_data_loader(
    source: ImageSource,
    cfg: DictConfig,
    *,
    rank: int,
    world_size: int,
    start_iteration: int,
    augmentation: Augmentation | None = None,
) -> DataIterator:
    """Return one rank's micro-batches, from an iteration on, without end.

    Micro-step g counts `accumulation_steps` per iteration. What rank r of W gets in it depends on the configuration
    and on g * W + r only: not on `train.num_workers`, not on where the run started, and W ranks get in one micro-step
    what one rank gets in W.

    Args:
        source: of the images.
        cfg: read are `train.batch_size_per_gpu`, `train.num_workers`, `train.seed`, `accumulation_steps`, `crops`,
            `ibot`, `student.patch_size`, `data.augmentation`, `data.worker_start`, `device` and `quirks`.
        rank: of this process, 0 to `world_size` - 1.
        world_size: processes in the run.
        start_iteration: first iteration, 0 for a fresh run.
        augmentation: in place of `data.augmentation`; it may draw from torch, `random` and numpy, which are seeded.

    Raises:
        ValueError: the configuration or the data set does not allow it.
    """
    _check(cfg, rank, world_size, start_iteration)
    seed, batch_size = cfg.train.seed, cfg.train.batch_size_per_gpu
    order = make_order(cfg.quirks.sampler, len(source), seed=seed, world_size=world_size, batch_size=batch_size)
    reader = MicroBatchReader(source, augmentation or make_augmentation(cfg), _collate(cfg), seed)
    first = start_iteration * cfg.accumulation_steps
    requests = batch_requests(order, batch_size, rank=rank, world_size=world_size, first=first)
    workers = _n_workers(cfg.train.num_workers)
    loader = DataLoader(
        reader,
        batch_size=None,  # the reader makes whole batches
        sampler=requests,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=_on_cuda(cfg.device),
        worker_init_fn=_prepare_worker,
        multiprocessing_context=_start_method(cfg.data.worker_start) if workers else None,
        generator=torch.Generator(),  # torch draws a seed for its workers, by default from the run's own generator
    )
    _logger.info("data: %s; %d worker processes; from micro-step %d", source.describe(), workers, first)
    return DataIterator(loader)


class DataIterator(Iterator[LoadedBatch]):
    """The micro-batches of a rank. Worker processes start at once and end with `close`, or with the main process."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        with _forking_quietly():
            self._iterator: Iterator[Any] | None = iter(loader)
        # At exit torch ends its workers with SIGTERM, which they ignore, and waits. What is registered last runs first.
        self._at_exit = partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)

    def __next__(self) -> LoadedBatch:
        """Return the next micro-batch.

        Raises:
            ValueError: a place of the batch could not be filled with an image that can be read.
            ChildProcessError: a worker process died.
            RuntimeError: the augmentation failed, with the traceback of the worker in its message; or it is closed.
        """
        if self._iterator is None:
            raise RuntimeError("the data iterator is closed; call make_data_loader again")
        try:
            loaded: LoadedBatch | UnreadableDataError = next(self._iterator)
        except RuntimeError as error:
            if str(error).startswith("DataLoader worker"):
                raise ChildProcessError(
                    f"{error}; it was killed, or memory ran out: set train.num_workers=0 to read in the main process, "
                    "or give the container more memory and a larger /dev/shm"
                ) from error
            raise
        if isinstance(loaded, UnreadableDataError):
            raise loaded
        return loaded

    def close(self) -> None:
        """End the worker processes; batches that they had ready are dropped. May be called again."""
        iterator, self._iterator = self._iterator, None
        atexit.unregister(self._at_exit)
        # torch does this when the iterator is collected, which an exception's traceback may put off for ever.
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        for worker in getattr(iterator, "_workers", ()):
            worker.kill()  # one that hangs in reading a file; an ended one is left alone

    def __enter__(self) -> DataIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _close(reference: weakref.ref[DataIterator]) -> None:
    iterator = reference()
    if iterator is not None:
        iterator.close()


def make_augmentation(cfg: DictConfig) -> DataAugmentationDINO:
    """Return the augmentation that `crops`, `data.augmentation` and `quirks.blur` ask for."""
    crops = cfg.crops
    return DataAugmentationDINO(
        list(crops.global_crops_scale),
        list(crops.local_crops_scale),
        crops.local_crops_number,
        crops.global_crops_size,
        crops.local_crops_size,
        blur=cfg.quirks.blur,
        flavour=cfg.data.augmentation,
    )


def _collate(cfg: DictConfig) -> partial[Batch]:
    """Return collate with the arguments of official's loop (`dinov2/train/train.py:165`)."""
    img_size, patch_size = cfg.crops.global_crops_size, cfg.student.patch_size
    side = img_size // patch_size
    return partial(
        _collate_in_float32,
        through=torch.float16 if cfg.quirks.input_dtype == "official" else torch.float32,
        mask_ratio_tuple=tuple(cfg.ibot.mask_ratio_min_max),
        mask_probability=cfg.ibot.mask_sample_probability,
        n_tokens=side**2,
        mask_generator=MaskingGenerator((side, side), max_num_patches=max_num_patches(img_size, patch_size)),
    )


def _collate_in_float32(samples: list[Any], *, through: torch.dtype, **arguments: Any) -> Batch:
    """Collate crops in `through` and return them in float32.

    Official hands float16 to a model that casts its input to its own type; a model without such a cast takes the
    rounded values in float32 (quirk Q30).
    """
    batch = collate_data_and_cast(samples, dtype=through, **arguments)
    batch["collated_global_crops"] = batch["collated_global_crops"].float()
    batch["collated_local_crops"] = batch["collated_local_crops"].float()
    return batch


def batch_requests(order: Order, batch_size: int, *, rank: int, world_size: int, first: int) -> Iterator[Request]:
    """Yield a rank's micro-batches without end, from micro-step `first` on."""
    for number in count(first * world_size + rank, world_size):
        start = number * batch_size
        yield Request(number, tuple(order(position) for position in range(start, start + batch_size)))


def _unchanged(loaded: Any) -> Any:
    return loaded


def _prepare_worker(worker: int) -> None:
    """Leave stopping to the main process.

    torch's own loader lets a worker outlive a killed main process by five seconds, with its standard output open.
    """
    ignore_stop_signals()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _on_cuda(device: str) -> bool:
    return torch.cuda.is_available() and (device == "auto" or device.startswith("cuda"))


def _n_workers(asked: int) -> int:
    """Return how many processes to start: not more than CPUs, where they would only share them."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if asked > cpus:
        _logger.info("train.num_workers is %d, but this process may use %d CPUs: %d workers", asked, cpus, cpus)
    return min(asked, cpus)


def _start_method(asked: str) -> str:
    """Return how worker processes start; `auto` forks on Linux, where this is fast and workers use no CUDA."""
    known = multiprocessing.get_all_start_methods()
    if asked == "auto":
        return "fork" if sys.platform == "linux" else multiprocessing.get_start_method()
    if asked not in known:
        raise ValueError(f"data.worker_start is {asked!r}, expected auto or, on this system, {' or '.join(known)}")
    return asked


@contextmanager
def _forking_quietly() -> Iterator[None]:
    """Fork without Python 3.12's warning that torch's threads do not follow; a worker computes on one thread."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        yield


def _check(cfg: DictConfig, rank: int, world_size: int, start_iteration: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}, expected 0 to world_size - 1 = {world_size - 1}")
    for name, value, least in (
        ("train.batch_size_per_gpu", cfg.train.batch_size_per_gpu, 1),
        ("train.num_workers", cfg.train.num_workers, 0),
        ("accumulation_steps", cfg.accumulation_steps, 1),
        ("start_iteration", start_iteration, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
    _start_method(cfg.data.worker_start)
