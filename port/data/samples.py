"""One micro-batch from its number: images read, views cut, masks drawn, in whichever process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from port.data.augmentations import Crops
from port.data.bad_files import SkippedFile
from port.data.collate import Batch
from port.data.datasets.base import BadImageError, ImageSource
from port.data.seeding import derive_seed, seeded

__all__ = ["ATTEMPTS", "LoadedBatch", "MicroBatchReader", "Request", "UnreadableDataError"]

ATTEMPTS = 32  # images tried for one place in a batch
_NAMED = 5  # files in an error message

Augmentation = Callable[[Image.Image], Crops]
Collate = Callable[[list[tuple[Crops, tuple[()]]]], Batch]


@dataclass(frozen=True)
class LoadedBatch:
    """A micro-batch and what was left out of it.

    Attributes:
        batch: as `collate_data_and_cast` returns it, on the CPU; crops are float32.
        skipped: files that could not be read and were replaced, in the order of the batch.
    """

    batch: Batch
    skipped: tuple[SkippedFile, ...]

    def pin_memory(self) -> LoadedBatch:
        """Return it with tensors in pinned memory; torch's loader calls this on CUDA."""
        pinned = {key: value.pin_memory() if isinstance(value, Tensor) else value for key, value in self.batch.items()}
        return LoadedBatch(cast(Batch, pinned), self.skipped)


@dataclass(frozen=True)
class Request:
    """A micro-batch to be made.

    Attributes:
        number: g * W + r, for micro-step g of rank r of W; two ranks' numbers differ.
        indices: of the images in the data set, one per place of the batch.
    """

    number: int
    indices: tuple[int, ...]


class UnreadableDataError(ValueError):
    """So many images are bad that a place in a batch could not be filled."""


class MicroBatchReader(Dataset[LoadedBatch | UnreadableDataError]):
    """Makes a micro-batch, the same bit for bit in every process, on every number of threads.

    The views of an image depend on the run's seed and on its position in the run alone; the masks, which are drawn for
    a whole batch, on the seed and the batch's number.
    """

    def __init__(self, source: ImageSource, augmentation: Augmentation, collate: Collate, seed: int) -> None:
        """Keep what a worker process needs.

        Args:
            source: of the images.
            augmentation: cuts the views; may draw from torch, Python's `random` and numpy.
            collate: stacks the views and draws masks.
            seed: of the run.
        """
        self.source = source
        self.augmentation = augmentation
        self.collate = collate
        self.seed = seed

    def __getitem__(self, request: Request) -> LoadedBatch | UnreadableDataError:
        """Return the micro-batch, or the error for the main process to raise as it is, without a worker's traceback.

        Raises:
            RuntimeError: the augmentation failed; the message names the image.
        """
        skipped: list[SkippedFile] = []
        first = request.number * len(request.indices)
        with _one_thread():
            try:
                samples = [
                    (self._views(first + place, index, skipped), ()) for place, index in enumerate(request.indices)
                ]
            except UnreadableDataError as error:
                return error
            with seeded(derive_seed(self.seed, "masks", request.number)):
                batch = self.collate(samples)
        return LoadedBatch(batch, tuple(skipped))

    def _views(self, position: int, index: int, skipped: list[SkippedFile]) -> Crops:
        index, image = self._image(position, index, skipped)
        with seeded(derive_seed(self.seed, "sample", position)):
            try:
                return self.augmentation(image)
            except Exception as error:
                raise RuntimeError(
                    f"the augmentation failed on {self.source.name(index)} ({image.mode}, {image.width} x "
                    f"{image.height} pixels), position {position} of the run: {type(error).__name__}: {error}"
                ) from error

    def _image(self, position: int, index: int, skipped: list[SkippedFile]) -> tuple[int, Image.Image]:
        """Return the image of a position, or the first that can be read of those drawn in its place."""
        bad: dict[int, SkippedFile] = {}
        for attempt in range(ATTEMPTS):
            if index not in bad:
                try:
                    image = self.source.load(index)
                except BadImageError as error:
                    bad[index] = SkippedFile(error.name, error.reason)
                else:
                    skipped += bad.values()
                    return index, image
            index = derive_seed(self.seed, "replacement", position, attempt) % len(self.source)
        lines = [f"  {name}: {reason}" for name, reason in list(bad.values())[:_NAMED]]
        raise UnreadableDataError(
            f"no readable image in {ATTEMPTS} attempts, expected nearly all {len(self.source)} images to be readable; "
            "check train.dataset_path, or repair the files:\n" + "\n".join(lines)
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, as in a worker process: the order of a sum may depend on the number of threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
