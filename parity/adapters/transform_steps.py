"""A view's transforms one by one, for stacks whose augmentations are made of torchvision's classes as official's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

__all__ = ["STEPS", "images_after", "leaves", "step_name"]

STEPS = ("crop", "flip", "jitter", "grayscale", "blur", "solarize", "normalize")
"""Official's steps in official's order (`dinov2/data/augmentations.py:44-94`); the local and the first global view
are not solarised."""

_NAMES: tuple[tuple[type, str], ...] = (
    (transforms.RandomResizedCrop, "crop"),
    (transforms.RandomHorizontalFlip, "flip"),
    (transforms.ColorJitter, "jitter"),
    (transforms.RandomGrayscale, "grayscale"),
    (transforms.GaussianBlur, "blur"),
    (transforms.RandomSolarize, "solarize"),
    (transforms.Normalize, "normalize"),
)


def leaves(transform: Any) -> Iterator[Any]:
    """Yield the transforms of nested `Compose` in the order in which they are applied; `RandomApply` stays whole."""
    if isinstance(transform, transforms.Compose):
        for inner in transform.transforms:
            yield from leaves(inner)
    else:
        yield transform


def step_name(transform: Any) -> str:
    """Return which of `STEPS` a transform is, else its class in lower case."""
    inner = transform.transforms[0] if isinstance(transform, transforms.RandomApply) else transform
    return next((name for kind, name in _NAMES if isinstance(inner, kind)), type(inner).__name__.lower())


def images_after(chain: Sequence[Callable[[Any], Any]], image: Image.Image) -> dict[str, Tensor]:
    """Apply a view's transforms and return the image after each of its steps, by the step's name.

    Args:
        chain: transforms in their order, possibly nested in `Compose`.
        image: RGB.

    Returns:
        uint8 (3, H, W) before normalisation, float32 (3, H, W) after it; the change of type in between is no step.
    """
    found: dict[str, Tensor] = {}
    current: Any = image
    for transform in (leaf for part in chain for leaf in leaves(part)):
        current = transform(current)
        name = step_name(transform)
        if name != "totensor":
            found[name] = current.clone() if isinstance(current, Tensor) else _pixels(current)
    return found


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
