"""A labelled source in memory and a small backbone, for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from port.data.datasets import BadImageError, ImageSource
from port.models.vision_transformer import DinoVisionTransformer

__all__ = ["MemorySource", "backbone", "noise"]

# Tensors this small are slower on several threads, many times so on a busy machine.
torch.set_num_threads(1)


class MemorySource(ImageSource):
    """Images in memory; None stands for a damaged file."""

    def __init__(self, images: Sequence[Image.Image | None], labels: Sequence[int | None]) -> None:
        self.images, self.labels = images, labels
        self.classes = [f"class {i}" for i in range(3)]

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Image.Image:
        """Return the image."""
        image = self.images[index]
        if image is None:
            raise BadImageError(self.name(index), "it is truncated")
        return image

    def name(self, index: int) -> str:
        """Return a file name."""
        return f"{index}.png"

    def label(self, index: int) -> int | None:
        """Return the label."""
        return self.labels[index]

    def describe(self) -> str:
        """Return a line."""
        return f"{len(self)} images in memory"


def noise(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    """Return an RGB image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def backbone(seed: int = 0) -> DinoVisionTransformer:
    """Return a network for images of 16 pixels and patches of 4, in training mode, whose drop path is heavy."""
    torch.manual_seed(seed)
    network = DinoVisionTransformer(
        img_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=2, drop_path_rate=0.5, drop_path_uniform=True
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.train()
