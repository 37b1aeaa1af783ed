"""Networks and images in evaluation: a network that is frozen for a while, and views of it that can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from port.data.datasets.base import BadImage, BadImageError, ImageSource
from port.data.transforms import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

__all__ = ["LabelledViews", "check_views", "denormalised", "frozen", "labelled_views"]

_THREADS = 4


class LabelledViews(NamedTuple):
    """Views of some images of a source, in its order.

    Attributes:
        views: float32 (B, 3, height, width), on the CPU; B may be 0.
        labels: int64 (B,).
        skipped: the images among them that could not be read.
    """

    views: Tensor
    labels: Tensor
    skipped: tuple[BadImage, ...]


def labelled_views(
    source: ImageSource, view: Callable[[Image.Image], Tensor], batch_size: int
) -> Iterator[LabelledViews]:
    """Read all images of a source, at most `batch_size` at a time, in a few threads of this process.

    Args:
        source: labelled images.
        view: from an RGB image to (3, height, width), without random numbers.
        batch_size: images that are held at once, at least 1.

    Raises:
        ValueError: the source is empty, or an image has no label.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more images")
    if not len(source):
        raise ValueError(f"{source.describe()}: no image to evaluate on; name a data set that has some")

    def read(index: int) -> tuple[Tensor, int] | BadImage:
        label = source.label(index)
        if label is None:
            raise ValueError(
                f"{source.name(index)} has no label, expected one for k-NN; name a data set with classes, such as a "
                "folder of folders, or leave knn.train_dataset empty"
            )
        try:
            return view(source.load(index)), label
        except BadImageError as error:
            return BadImage(error.name, error.reason)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="evaluation") as pool:
        for start in range(0, len(source), batch_size):
            found = list(pool.map(read, range(start, min(start + batch_size, len(source)))))
            good = [item for item in found if not isinstance(item, BadImage)]
            yield LabelledViews(
                torch.stack([image for image, _ in good]) if good else torch.empty(0, 3, 0, 0),
                torch.tensor([label for _, label in good], dtype=torch.int64),
                tuple(item for item in found if isinstance(item, BadImage)),
            )


def check_views(backbone: nn.Module, crop_size: int) -> None:
    """Check that views can be cut into the backbone's patches.

    Raises:
        ValueError: `crop_size` is no positive multiple of the backbone's `patch_size`.
    """
    patch_size = backbone.patch_size
    assert isinstance(patch_size, int)
    if crop_size < 1 or crop_size % patch_size:
        nearest = max(round(crop_size / patch_size), 1) * patch_size
        raise ValueError(
            f"the crop for evaluation is {crop_size} pixels wide, expected a multiple of the patch size {patch_size}, "
            f"such as knn.crop_size={nearest}"
        )


def denormalised(views: Tensor) -> Tensor:
    """Return views (B, 3, height, width) as the colours they were made of, in 0 to 1 and a little beyond."""
    mean, std = (torch.tensor(constants).view(3, 1, 1) for constants in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return views * std + mean


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode, without gradients; each module's own mode comes back at the end."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
