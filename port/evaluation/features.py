"""Features of labelled images: a backbone's CLS tokens, and raw pixels to compare with.

Shapes: n images that could be read, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from port.data.datasets.base import BadImage, ImageSource
from port.data.transforms import make_classification_eval_transform
from port.evaluation.views import LabelledViews, check_views, denormalised, frozen, labelled_views

__all__ = ["LabelledFeatures", "extract_features", "raw_pixel_features"]

_NAMED = 3
_logger = logging.getLogger("port")


class LabelledFeatures(NamedTuple):
    """Features and labels of the same images, in the source's order.

    Attributes:
        features: float32 (n, D), rows of length 1, on the CPU.
        labels: int64 (n,), on the CPU.
        skipped: the images that could not be read.
    """

    features: Tensor
    labels: Tensor
    skipped: tuple[BadImage, ...]


def extract_features(
    backbone: nn.Module,
    source: ImageSource,
    *,
    crop_size: int,
    resize_size: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> LabelledFeatures:
    """Return CLS tokens after the final norm, normalised, as official's k-NN takes them (`dinov2/eval/knn.py:258`).

    No random number is drawn, and the backbone's mode is as before. Unreadable images are left out and logged.

    Args:
        backbone: a `DinoVisionTransformer` on `device`. A sharded one must be called by all ranks alike.
        source: labelled images; every rank reads all of them.
        crop_size: side of the centre crop, in pixels, a multiple of the patch size.
        resize_size: shorter side before the crop, in pixels; 0 for 8/7 of `crop_size`.
        batch_size: images at once; larger ones need more memory and give the same features up to rounding.
        device: where the backbone is.
        autocast: entered around each forward pass; sets the precision of matrix products.

    Raises:
        ValueError: a size or the batch size does not fit, the source is empty, has an image without label, or no
            image that can be read.
    """
    check_views(backbone, crop_size)
    view = make_classification_eval_transform(crop_size=crop_size, resize_size=resize_size)

    def cls_tokens(images: Tensor) -> Tensor:
        with autocast():
            features: Tensor = backbone(images.to(device), is_training=True)["x_norm_clstoken"]
        return _unit_rows(features.float().cpu())

    with frozen(backbone):
        return _collected(source, view, cls_tokens, batch_size)


def raw_pixel_features(source: ImageSource, sizes: Sequence[int], *, grey: bool = False) -> list[LabelledFeatures]:
    """Return the images themselves as features: what k-NN knows without a network. The source is read once.

    An image is cut as for `extract_features`, made small, flattened, and brought to mean 0 and length 1: the product
    of two rows is the correlation of two images, which brightness and contrast do not change.

    Args:
        source: labelled images.
        sizes: sides of the small images, in pixels; D is size² * 3, or size² in grey.
        grey: whether to leave out colour.

    Returns:
        One for each size.

    Raises:
        ValueError: a size is not positive, the source is empty, has an image without label, or no image that can be
            read.
    """
    views = [make_classification_eval_transform(crop_size=size) for size in sizes]

    def small(image: Image.Image) -> Tensor:
        image = image.convert("L").convert("RGB") if grey else image
        return torch.cat([view(image).flatten(1) for view in views], dim=1).unsqueeze(1)  # (3, 1, sum of size²)

    def pixels(images: Tensor) -> Tensor:
        colours = denormalised(images).squeeze(2)
        parts = (colours[:, :1] if grey else colours).split([size * size for size in sizes], dim=2)
        flat = [part.flatten(1) for part in parts]
        return torch.cat([part - part.mean(dim=1, keepdim=True) for part in flat], dim=1)

    all_sizes = _collected(source, small, pixels, batch_size=256)
    widths = [size * size * (1 if grey else 3) for size in sizes]
    return [all_sizes._replace(features=_unit_rows(part)) for part in all_sizes.features.split(widths, dim=1)]


def _collected(
    source: ImageSource,
    view: Callable[[Image.Image], Tensor],
    features_of: Callable[[Tensor], Tensor],
    batch_size: int,
) -> LabelledFeatures:
    """Read a source, and make features of what can be read."""
    batches: list[LabelledViews] = []
    rows: list[Tensor] = []
    for batch in labelled_views(source, view, batch_size):
        if len(batch.views):
            rows.append(features_of(batch.views))
        batches.append(batch._replace(views=batch.views[:0]))  # the images themselves are done with
    skipped = tuple(bad for batch in batches for bad in batch.skipped)
    if not rows:
        raise ValueError(f"{source.describe()}: no image can be read; {_told(skipped)}")
    if skipped:
        _logger.warning("evaluation leaves out %d of %d images: %s", len(skipped), len(source), _told(skipped))
    return LabelledFeatures(torch.cat(rows), torch.cat([batch.labels for batch in batches]), skipped)


def _unit_rows(features: Tensor) -> Tensor:
    return normalize(features, p=2, dim=1)


def _told(skipped: Sequence[BadImage]) -> str:
    named = "; ".join(f"{bad.name}: {bad.reason}" for bad in skipped[:_NAMED])
    return named + (f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else "")
