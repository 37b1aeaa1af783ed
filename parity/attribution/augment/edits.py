"""Edits of official's augmentation: of copies of its transforms, view by view, in place."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as F

from parity.adapters.transform_steps import step_name
from parity.attribution.augment.charts import Normalisation

__all__ = [
    "Chains",
    "HueReversed",
    "JitterInOrder",
    "as_bgr",
    "as_dino_v1",
    "blur_corrected",
    "flipped_last",
    "moved_forward",
    "nothing",
    "set_normalisation",
    "solarised_too",
    "with_inner",
    "with_inner_values",
    "with_scales",
    "with_values",
    "without",
]

Chains = dict[str, list[Any]]
"""The transforms of each view, in their order."""

Edit = Callable[[Chains], None]

_CHANGES: Sequence[Callable[[Image.Image, float], Image.Image]] = (
    F.adjust_brightness,
    F.adjust_contrast,
    F.adjust_saturation,
    F.adjust_hue,
)


def set_normalisation(chains: Chains, normalisation: Normalisation) -> None:
    """Normalise with another mean and standard deviation, rounded to what somebody may have written."""
    mean, std = ([round(value, 4) for value in values] for values in (normalisation.mean, normalisation.std))
    with_values("normalize", mean=mean, std=std)(chains)


def blur_corrected(chains: Chains) -> None:
    """Blur with the declared probability."""
    for blur in _steps(chains, "blur"):
        blur.p = 1 - blur.p


def nothing(chains: Chains) -> None:
    """Leave the transforms as they are."""


def _steps(chains: Chains, name: str) -> Iterator[Any]:
    for chain in chains.values():
        yield from (transform for transform in chain if step_name(transform) == name)


def with_values(name: str, **values: Any) -> Edit:
    """Set attributes of a step."""

    def edit(chains: Chains) -> None:
        for step in _steps(chains, name):
            for key, value in values.items():
                setattr(step, key, value)

    return edit


def with_inner_values(name: str, **values: Any) -> Edit:
    """Set attributes of what a step applies at random."""

    def edit(chains: Chains) -> None:
        for step in _steps(chains, name):
            for key, value in values.items():
                setattr(step.transforms[0], key, value)

    return edit


def with_inner(name: str, kind: Callable[[Any], Any]) -> Edit:
    """Put another transform, made of the old one, in the place of what a step applies at random."""

    def edit(chains: Chains) -> None:
        for step in _steps(chains, name):
            step.transforms = [kind(step.transforms[0])]

    return edit


def without(name: str) -> Edit:
    """Leave out a step, and with it its draws."""

    def edit(chains: Chains) -> None:
        for chain in chains.values():
            chain[:] = [transform for transform in chain if step_name(transform) != name]

    return edit


def with_scales(by_view: dict[str, tuple[float, float]]) -> Edit:
    """Cut other shares of the image."""

    def edit(chains: Chains) -> None:
        for view, scale in by_view.items():
            for step in _steps({view: chains[view]}, "crop"):
                step.scale = scale

    return edit


def moved_forward(name: str) -> Edit:
    """Move a step before the one that precedes it."""

    def edit(chains: Chains) -> None:
        for chain in chains.values():
            for place in range(1, len(chain)):
                if step_name(chain[place]) == name:
                    chain[place - 1], chain[place] = chain[place], chain[place - 1]
                    break

    return edit


def flipped_last(chains: Chains) -> None:
    """Flip after every change of colour."""
    for chain in chains.values():
        names = [step_name(step) for step in chain]
        if "flip" in names:
            flip = chain.pop(names.index("flip"))
            place = next((i for i, step in enumerate(chain) if step_name(step) == "totensor"), len(chain))
            chain.insert(place, flip)


def solarised_too(chains: Chains) -> None:
    """Solarise global view 1 as view 2 is."""
    first = chains["global_1"]
    place = next((i for i, step in enumerate(first) if step_name(step) == "totensor"), len(first))
    first[place:place] = list(_steps({"global_2": chains["global_2"]}, "solarize"))


def as_bgr(chains: Chains) -> None:
    """Read images with their channels reversed."""
    for chain in chains.values():
        chain.insert(0, lambda image: Image.merge("RGB", image.split()[::-1]))


def as_dino_v1(chains: Chains) -> None:
    """Blur and solarise by DINO v1's classes, which draw from Python's `random`."""
    for view, p in (("global_1", 1.0), ("global_2", 0.1), ("local", 0.5)):
        chains[view][:] = [_of_dino_v1(step, p) for step in chains[view]]


def _of_dino_v1(step: Any, p: float) -> Any:
    name = step_name(step)
    return _Blur(p) if name == "blur" else _Solarization(0.2) if name == "solarize" else step


@dataclass
class _Blur:
    """Pillow's blur of a radius of 0.1 to 2.0, with a probability drawn from `random`."""

    p: float

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() > self.p:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


@dataclass
class _Solarization:
    """Pillow's solarisation, with a probability drawn from `random`."""

    p: float

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if random.random() < self.p else image


@dataclass
class JitterInOrder:
    """Jitter that draws what official's draws, and applies it in the order of its arguments."""

    jitter: Any

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image in other colours."""
        drawn = self.jitter.get_params(
            self.jitter.brightness, self.jitter.contrast, self.jitter.saturation, self.jitter.hue
        )
        for change, factor in zip(_CHANGES, drawn[1:], strict=True):
            image = change(image, factor)
        return image


@dataclass
class HueReversed:
    """Jitter in official's order that turns hue the other way."""

    jitter: Any

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image in other colours."""
        order, *factors = self.jitter.get_params(
            self.jitter.brightness, self.jitter.contrast, self.jitter.saturation, self.jitter.hue
        )
        factors[3] = -factors[3]
        for number in order.tolist():
            image = _CHANGES[number](image, factors[number])
        return image
