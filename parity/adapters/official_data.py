"""What official code makes of images before collate, and in which order it reads them.

The augmentation and the loader's settings are those that official `do_train` itself builds: they are caught at the
calls of `make_dataset` and `make_data_loader` (`dinov2/train/train.py:194-211`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple
from unittest import mock

from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from parity.adapters.official_step import NoModel, files_replaced
from parity.adapters.transform_steps import images_after
from parity.reference import Reference

__all__ = ["SAMPLER_KINDS", "VIEWS", "OfficialData", "TrainingData", "data_of_official_training"]

SAMPLER_KINDS = ("SHARDED_INFINITE", "SHARDED_INFINITE_NEW", "INFINITE", "EPOCH")
"""Names in official's `SamplerType` that its own classes answer (`dinov2/data/loaders.py:20`)."""

VIEWS = {
    "global_1": ("geometric_augmentation_global", "global_transfo1"),
    "global_2": ("geometric_augmentation_global", "global_transfo2"),
    "local": ("geometric_augmentation_local", "local_transfo"),
}
"""View to the attributes of official's augmentation that make it (`dinov2/data/augmentations.py:101-114`)."""


class TrainingData(NamedTuple):
    """What official training builds to read its data.

    Attributes:
        augmentation: the `DataAugmentationDINO` given to the data set.
        options: the keyword arguments of `make_data_loader`.
    """

    augmentation: Any
    options: dict[str, Any]


def data_of_official_training(reference: Reference, config: DictConfig, *, start: int = 0) -> TrainingData:
    """Return what `do_train` hands to its data set and loader when it begins at iteration `start`."""
    given: dict[str, Any] = {}

    def dataset(**options: Any) -> tuple[()]:
        given.update(options)
        return ()

    def loader(**options: Any) -> Iterator[Any]:
        given["loader"] = options
        return iter(())

    train = reference.module("train.train")
    with (
        files_replaced(reference, config, loader, start=start, on_optimizer=lambda _: None),
        mock.patch.object(train, "make_dataset", dataset),
    ):
        train.do_train(config, NoModel(), resume=True)
    return TrainingData(given["transform"], given["loader"])


class OfficialData:
    """The capabilities of `parity.stack` that concern data, answered by official code."""

    sampler_kinds = SAMPLER_KINDS
    _reference: Reference
    _augmentations: dict[str, Any]

    def augmentation(self, config: DictConfig) -> Any:
        """Return the `DataAugmentationDINO` that official training builds; one for all equal `config.crops`."""
        key = str(config.crops)
        if key not in self._augmentations:
            built = data_of_official_training(self._reference, copy.deepcopy(config))
            self._augmentations[key] = built.augmentation
        return self._augmentations[key]

    def augment(self, image: Image.Image, config: DictConfig, seed: int) -> dict[str, Any]:
        """`dinov2/data/augmentations.py:96`, with the generators as they stand: parity has seeded them."""
        crops: dict[str, Any] = self.augmentation(config)(image)
        return crops

    def augment_steps(self, image: Image.Image, config: DictConfig, view: str, seed: int) -> dict[str, Tensor]:
        """The image after each transform of one of official's views."""
        augmentation = self.augmentation(config)
        return images_after([getattr(augmentation, name) for name in VIEWS[view]], image)

    def evaluation_view(self, image: Image.Image, resize_size: int, crop_size: int) -> Tensor:
        """`dinov2/data/transforms.py:77`."""
        make = self._reference.module("data.transforms").make_classification_eval_transform
        view: Tensor = make(resize_size=resize_size, crop_size=crop_size)(image)
        return view

    def classification_view(self, image: Image.Image, crop_size: int) -> Tensor:
        """`dinov2/data/transforms.py:55`, the view that official's linear probe trains on."""
        view: Tensor = self._reference.module("data.transforms").make_classification_train_transform(
            crop_size=crop_size
        )(image)
        return view

    def decode_image(self, data: bytes) -> Image.Image:
        """`dinov2/data/datasets/decoders.py:21`."""
        image: Image.Image = self._reference.module("data.datasets.decoders").ImageDataDecoder(data).decode()
        return image

    def data_order(
        self, kind: str, sample_count: int, rank: int, world_size: int, seed: int, advance: int, count: int
    ) -> list[int]:
        """The sampler that `dinov2/data/loaders.py:100` makes; EPOCH's epochs follow one another by `set_epoch`."""
        with _ranked(self._reference, rank, world_size):
            sampler = self._sampler(kind, sample_count, seed, advance, shuffle=True)
        return _indices(sampler, kind, count)

    def unshuffled_order(
        self, kind: str, sample_count: int, rank: int, world_size: int, advance: int, count: int
    ) -> list[int]:
        """As `data_order`, of a sampler that does not shuffle."""
        with _ranked(self._reference, rank, world_size):
            sampler = self._sampler(kind, sample_count, 0, advance, shuffle=False)
        return _indices(sampler, kind, count)

    def training_order(
        self, config: DictConfig, sample_count: int, rank: int, world_size: int, iterations: int
    ) -> list[list[int]]:
        """Batches of the loader that official training builds (`dinov2/train/train.py:201`, `data/loaders.py:166`)."""
        options = dict(data_of_official_training(self._reference, copy.deepcopy(config)).options)
        options.update(dataset=range(sample_count), num_workers=0)  # the order is the main process's; nothing is read
        with _ranked(self._reference, rank, world_size):
            loader = self._reference.module("data.loaders").make_data_loader(**options)
        return [[int(index) for index in batch] for batch in islice(loader.batch_sampler, iterations)]

    def _sampler(self, kind: str, sample_count: int, seed: int, advance: int, *, shuffle: bool) -> Any:
        loaders = self._reference.module("data.loaders")
        options = {"type": loaders.SamplerType[kind], "shuffle": shuffle, "seed": seed, "advance": advance}
        return loaders._make_sampler(dataset=range(sample_count), **options)


def _indices(sampler: Any, kind: str, count: int) -> list[int]:
    if kind != "EPOCH":
        return [int(index) for index in islice(sampler, count)]
    found: list[int] = []
    epoch = 0
    while len(found) < count:
        sampler.set_epoch(epoch)
        found += [int(index) for index in sampler]
        epoch += 1
    return found[:count]


@contextmanager
def _ranked(reference: Reference, rank: int, world_size: int) -> Iterator[None]:
    """Let official code believe that this process is a rank of several, as its samplers ask when they are made."""
    distributed = reference.module("distributed")
    with (
        mock.patch.object(distributed, "get_global_rank", return_value=rank),
        mock.patch.object(distributed, "get_global_size", return_value=world_size),
    ):
        yield
