"""Section 2, "current": the views of an image, with a third global one for iBOT, appended last.

What the document's listing elides is official's (`dinov2/data/augmentations.py:44-90`): crop scales and
interpolation, the strengths of the colour jitter, the mean and standard deviation. The listing has no
grayscale anywhere, and does not show the local view at all: here it is flipped and jittered, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omegaconf import DictConfig
from torch import Tensor
from torchvision import transforms

__all__ = ["TMEDinoTransforms", "make_views"]

N_GLOBAL_CROPS = 2
"""Global views that serve DINO; the third, for iBOT, comes after the local ones."""

Transform = Callable[[object], Tensor]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class TMEDinoTransforms:
    """One image to `[global_1, global_2, local_1, …, local_N, global_3]`.

    Departs from `dinov2/data/augmentations.py:19-118` as follows:

    - a third global view, the only one flipped upside down;
    - blur of kernel 3 and sigma 0.1 to 0.15 on every global view, which rounds away and changes no pixel
      (official: kernel 9, sigma 0.1 to 2.0; 0 % of crop 1, 90 % of crop 2, half of the local ones);
    - solarize above 64 in half of global_2 (official: above 128, in a fifth);
    - no grayscale, and no blur on local views.

    Args:
        global_crops_scale: range of the area of a global crop, as a share of the image's.
        local_crops_scale: likewise for a local crop.
        n_local_crops: N.
        global_crops_size: side of a global crop, in pixels.
        local_crops_size: side of a local crop, in pixels.
    """

    def __init__(
        self,
        global_crops_scale: Sequence[float],
        local_crops_scale: Sequence[float],
        n_local_crops: int,
        global_crops_size: int = 224,
        local_crops_size: int = 96,
    ) -> None:
        self.n_local_crops = n_local_crops
        jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
        flip_and_color_jitter = [transforms.RandomHorizontalFlip(p=0.5), jitter]
        normalize = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        global_crop = _crop(global_crops_size, global_crops_scale)
        self.global_1: Transform = transforms.Compose(
            [global_crop, *flip_and_color_jitter, transforms.GaussianBlur(3, (0.1, 0.15)), *normalize]
        )
        self.global_2: Transform = transforms.Compose(
            [
                global_crop,
                *flip_and_color_jitter,
                transforms.GaussianBlur(3, (0.1, 0.15)),
                transforms.RandomSolarize(threshold=64, p=0.5),
                *normalize,
            ]
        )
        self.global_3: Transform = transforms.Compose(
            [
                global_crop,
                transforms.RandomHorizontalFlip(p=0.5),
                transforms.RandomVerticalFlip(p=0.3),
                jitter,
                transforms.GaussianBlur(3, (0.1, 0.2)),
                *normalize,
            ]
        )
        self.local: Transform = transforms.Compose(
            [_crop(local_crops_size, local_crops_scale), *flip_and_color_jitter, *normalize]
        )

    def __call__(self, image: object) -> list[Tensor]:
        """Return the 2 + N + 1 views of a PIL image, each (3, side, side)."""
        crops = [self.global_1(image), self.global_2(image)]
        crops += [self.local(image) for _ in range(self.n_local_crops)]
        crops.append(self.global_3(image))
        return crops


def make_views(image: object, config: DictConfig) -> dict[str, list[Tensor]]:
    """Return the views of a PIL image as `collate` takes them.

    Returns:
        `global_crops`, three of (3, G, G), the iBOT view last, and `local_crops`, N of (3, L, L).
    """
    crops = config.crops
    views = TMEDinoTransforms(
        crops.global_crops_scale,
        crops.local_crops_scale,
        crops.local_crops_number,
        global_crops_size=crops.global_crops_size,
        local_crops_size=crops.local_crops_size,
    )(image)
    return {
        "global_crops": [*views[:N_GLOBAL_CROPS], views[-1]],
        "local_crops": views[N_GLOBAL_CROPS:-1],
    }


def _crop(size: int, scale: Sequence[float]) -> Callable[[object], object]:
    crop: Callable[[object], object] = transforms.RandomResizedCrop(
        size, scale=tuple(scale), interpolation=transforms.InterpolationMode.BICUBIC
    )
    return crop
