"""A small data set for tests, in a module of its own: loader processes import it."""

from __future__ import annotations

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from port.config import load_config
from port.data.datasets.base import BadImageError, ImageSource

TINY = [
    "train.batch_size_per_gpu=3",
    "train.num_workers=0",
    "train.seed=5",
    "crops.global_crops_size=32",
    "crops.local_crops_size=16",
    "crops.local_crops_number=2",
    "student.patch_size=4",
    "ibot.mask_sample_probability=0.5",
]


class Pictures(ImageSource):
    """Small pictures made from their index; some are bad."""

    def __init__(self, n: int = 11, bad: tuple[int, ...] = ()) -> None:
        self.classes = []
        self.n = n
        self.bad = bad

    def __len__(self) -> int:
        return self.n

    def load(self, index: int) -> Image.Image:
        """Return noise whose height is 20 + index."""
        if index in self.bad:
            raise BadImageError(self.name(index), "cut off")
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index, 40, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def name(self, index: int) -> str:
        """Return a file's name."""
        return f"{index}.png"

    def label(self, index: int) -> int | None:
        """Return None: there are no labels."""
        return None

    def describe(self) -> str:
        """Return the number of pictures."""
        return f"{self.n} pictures"


def config(*overrides: str) -> DictConfig:
    """A configuration with small crops and batches of three."""
    return load_config(overrides=[*TINY, *overrides])
