"""What `port` makes of images before collate, and in which order it reads them, with its quirks at official's."""

from __future__ import annotations

from itertools import islice
from typing import Any

from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torchvision import transforms

from parity.adapters.port_parts import official_settings
from parity.adapters.transform_steps import images_after
from port.data.augmentations import DataAugmentationDINO
from port.data.datasets.decode import decode_image
from port.data.loader import batch_requests, make_augmentation
from port.data.samplers import OfficialOrder, make_order
from port.data.transforms import make_classification_eval_transform

__all__ = ["PortData"]


class PortData:
    """The capabilities of `parity.stack` that concern data, answered by `port`."""

    sampler_kinds = ("SHARDED_INFINITE",)

    def __init__(self) -> None:
        self._augmentations: dict[str, DataAugmentationDINO] = {}  # a configuration takes longer to copy than to use

    def augment(self, image: Image.Image, config: DictConfig, seed: int) -> dict[str, Any]:
        """`port.data.DataAugmentationDINO`, which draws from torch's generator; parity has seeded it."""
        return dict(self._augmentation(config)(image))

    def augment_steps(self, image: Image.Image, config: DictConfig, view: str, seed: int) -> dict[str, Tensor]:
        """The image after each transform of one of `port`'s views."""
        augmentation = self._augmentation(config)
        chain = {
            "global_1": augmentation.global_view_1,
            "global_2": augmentation.global_view_2,
            "local": augmentation.local_view,
        }[view]
        assert isinstance(chain, transforms.Compose)
        return images_after([chain], image)

    def _augmentation(self, config: DictConfig) -> DataAugmentationDINO:
        key = f"{config.crops} {config.data}"
        if key not in self._augmentations:
            self._augmentations[key] = make_augmentation(official_settings(config, "official_order"))
        return self._augmentations[key]

    def evaluation_view(self, image: Image.Image, resize_size: int, crop_size: int) -> Tensor:
        """`port.data.transforms.make_classification_eval_transform`."""
        return make_classification_eval_transform(crop_size=crop_size, resize_size=resize_size)(image)

    def decode_image(self, data: bytes) -> Image.Image:
        """`port.data.datasets.decode.decode_image`."""
        return decode_image(data, "image")

    def data_order(
        self, kind: str, sample_count: int, rank: int, world_size: int, seed: int, advance: int, count: int
    ) -> list[int]:
        """The order of `quirks.sampler=official`, read index by index.

        Raises:
            ValueError: `kind` is not `SHARDED_INFINITE`.
        """
        if kind not in self.sampler_kinds:
            raise ValueError(f"sampler {kind!r} is not offered, expected {', '.join(self.sampler_kinds)}")
        order = OfficialOrder(sample_count, world_size=world_size, batch_size=1, seed=seed)
        return [order(position * world_size + rank) for position in range(advance, advance + count)]

    def training_order(
        self, config: DictConfig, sample_count: int, rank: int, world_size: int, iterations: int
    ) -> list[list[int]]:
        """The batches of a fresh run, as `port.data.make_data_loader` asks for them."""
        size = config.train.batch_size_per_gpu
        order = make_order("official", sample_count, seed=config.train.seed, world_size=world_size, batch_size=size)
        requests = batch_requests(order, size, rank=rank, world_size=world_size, first=0)
        return [list(request.indices) for request in islice(requests, iterations)]
