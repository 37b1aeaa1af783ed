"""The views of an image that training compares: two global crops and several local ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from PIL import Image
from torch import Tensor
from torchvision import transforms

from port.data.transforms import BLUR_KERNEL, gaussian_blur, make_normalize_transform

__all__ = ["FLAVOURS", "SMALLEST_CROP", "Crops", "DataAugmentationDINO"]

FLAVOURS = ("dinov2", "histology")
BLURS = ("official", "corrected")

# Brightness, contrast, saturation, hue. A stain's hue is a finding, so histology moves colours half as far.
_JITTER = {"dinov2": (0.4, 0.4, 0.2, 0.1), "histology": (0.2, 0.2, 0.1, 0.05)}
SMALLEST_CROP = BLUR_KERNEL // 2 + 1  # the blur reflects half a kernel at the border

View = Callable[[Image.Image], Tensor]


class Crops(TypedDict):
    """What collate takes of an image.

    Attributes:
        global_crops: two float32 tensors (3, G, G).
        local_crops: float32 tensors (3, L, L).
    """

    global_crops: list[Tensor]
    local_crops: list[Tensor]


class DataAugmentationDINO:
    """Cuts and distorts the views of one image (`dinov2/data/augmentations.py:19`).

    Under the same seeds every crop is official's bit for bit, with `blur="official"` and `flavour="dinov2"`. Not
    returned are official's `global_crops_teacher`, the same two tensors again, and the empty `offsets`: nothing reads
    them (quirk Q32).
    """

    def __init__(
        self,
        global_crops_scale: Sequence[float],
        local_crops_scale: Sequence[float],
        local_crops_number: int,
        global_crops_size: int = 224,
        local_crops_size: int = 96,
        *,
        blur: str = "official",
        flavour: str = "dinov2",
    ) -> None:
        """Build the three kinds of view.

        Args:
            global_crops_scale: smallest and largest share of the image's area in a global crop.
            local_crops_scale: the same for a local crop.
            local_crops_number: local crops per image.
            global_crops_size: side of a global crop, in pixels.
            local_crops_size: side of a local crop, in pixels.
            blur: `official` never blurs global crop 1 and blurs crop 2 nine times in ten; `corrected` always blurs
                crop 1 and crop 2 once in ten, as official's numbers are meant (quirk Q1). Local crops: every other.
            flavour: `dinov2`, or `histology` for images without an up: vertical flips too, half of the colour jitter,
                no grey and no solarised views.

        Raises:
            ValueError: an option is not known, or a crop is smaller than the blur needs.
        """
        _check(blur, flavour, global_crops_size, local_crops_size if local_crops_number else global_crops_size)
        self.local_crops_number = local_crops_number
        solarize = [transforms.RandomSolarize(threshold=128, p=0.2)] if flavour == "dinov2" else []

        def view(size: int, scale: Sequence[float], declared_blur: float, extra: Sequence[Any] = ()) -> View:
            cut = transforms.RandomResizedCrop(
                size, scale=tuple(scale), interpolation=transforms.InterpolationMode.BICUBIC
            )
            distort = [*_flips(flavour), *_colours(flavour), gaussian_blur(declared_blur, blur), *extra]
            whole: View = transforms.Compose([cut, *distort, transforms.ToTensor(), make_normalize_transform()])
            return whole

        self.global_view_1 = view(global_crops_size, global_crops_scale, 1.0)
        self.global_view_2 = view(global_crops_size, global_crops_scale, 0.1, solarize)
        self.local_view = view(local_crops_size, local_crops_scale, 0.5)

    def __call__(self, image: Image.Image) -> Crops:
        """Return the views of an RGB image of any size, a single pixel included; draws from torch's generator."""
        return {
            "global_crops": [self.global_view_1(image), self.global_view_2(image)],
            "local_crops": [self.local_view(image) for _ in range(self.local_crops_number)],
        }


def _flips(flavour: str) -> list[Any]:
    horizontal = [transforms.RandomHorizontalFlip(p=0.5)]
    return [*horizontal, transforms.RandomVerticalFlip(p=0.5)] if flavour == "histology" else horizontal


def _colours(flavour: str) -> list[Any]:
    jitter = transforms.RandomApply([transforms.ColorJitter(*_JITTER[flavour])], p=0.8)
    return [jitter] if flavour == "histology" else [jitter, transforms.RandomGrayscale(p=0.2)]


def _check(blur: str, flavour: str, *sizes: int) -> None:
    if blur not in BLURS:
        raise ValueError(f"quirks.blur is {blur!r}, expected {' or '.join(BLURS)}")
    if flavour not in FLAVOURS:
        raise ValueError(f"data.augmentation is {flavour!r}, expected {' or '.join(FLAVOURS)}")
    if min(sizes) < SMALLEST_CROP:
        raise ValueError(
            f"a crop has {min(sizes)} pixels a side, expected at least {SMALLEST_CROP}, which the blur's kernel of "
            f"{BLUR_KERNEL} needs; set crops.global_crops_size and crops.local_crops_size"
        )
