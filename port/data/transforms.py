"""What single views are made of: blur, normalisation, and the view that evaluation takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor
from torchvision import transforms

__all__ = [
    "BLUR_KERNEL",
    "IMAGENET_DEFAULT_MEAN",
    "IMAGENET_DEFAULT_STD",
    "gaussian_blur",
    "make_classification_eval_transform",
    "make_normalize_transform",
]

ImageTransform = Callable[[Image.Image], Image.Image]

# Of RGB in 0 to 1.
IMAGENET_DEFAULT_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEFAULT_STD = (0.229, 0.224, 0.225)
BLUR_KERNEL = 9  # pixels
_BLUR_SIGMA = (0.1, 2.0)  # pixels
_LARGEST_ASPECT = 16


def make_normalize_transform(
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN, std: Sequence[float] = IMAGENET_DEFAULT_STD
) -> Callable[[Tensor], Tensor]:
    """Return the normalisation of an image in 0 to 1 (`dinov2/data/transforms.py:43`)."""
    normalize: Callable[[Tensor], Tensor] = transforms.Normalize(mean=mean, std=std)
    return normalize


def gaussian_blur(p: float, quirk: str) -> ImageTransform:
    """Return the random blur of a view (`dinov2/data/transforms.py:13`).

    Official code declares a probability and applies the blur in all *other* cases (quirk Q1). It draws one number
    to decide and, if it blurs, one for sigma, whatever the quirk.

    Args:
        p: official's declared probability.
        quirk: `official` blurs with probability 1 - p, `corrected` with probability p.
    """
    applied = 1 - p if quirk == "official" else p
    blur = transforms.GaussianBlur(kernel_size=BLUR_KERNEL, sigma=_BLUR_SIGMA)
    random_blur: ImageTransform = transforms.RandomApply([blur], p=applied)
    return random_blur


def make_classification_eval_transform(
    *, crop_size: int = 224, resize_size: int = 0
) -> Callable[[Image.Image], Tensor]:
    """Return the view that evaluation takes: resize, centre crop, normalise (`dinov2/data/transforms.py:78`).

    Official's numbers, except for images longer than 16 times their height (or the reverse): of these only the
    middle is resized, since a strip of 1 x 10,000 pixels would become 2 GB.

    Args:
        crop_size: side of the centre crop, in pixels.
        resize_size: shorter side before the crop, in pixels; 0 for 8/7 of `crop_size` (256 for 224).

    Returns:
        A function from an RGB image to float32 (3, crop_size, crop_size).

    Raises:
        ValueError: a size is not positive, or the crop does not fit.
    """
    size = resize_size or round(crop_size * 8 / 7)
    if not 0 < crop_size <= size:
        raise ValueError(
            f"crop_size is {crop_size} and resize_size {size} pixels, expected 0 < crop_size <= resize_size; "
            "resize_size=0 stands for 8/7 of crop_size"
        )
    view: Callable[[Image.Image], Tensor] = transforms.Compose(
        [
            _middle_of_strip,
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(crop_size),
            transforms.ToTensor(),
            make_normalize_transform(),
        ]
    )
    return view


def _middle_of_strip(image: Image.Image) -> Image.Image:
    """Return the image, or its middle where one side is longer than 16 times the other."""
    limit = _LARGEST_ASPECT * min(image.size)
    if max(image.size) <= limit:
        return image
    width, height = (min(side, limit) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
