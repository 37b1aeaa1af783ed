"""Changes that forks make to official's augmentation, as edits of its transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torchvision import transforms
from torchvision.transforms import InterpolationMode

from parity.adapters.transform_steps import STEPS
from parity.attribution.augment.edits import (
    Chains,
    HueReversed,
    JitterInOrder,
    as_bgr,
    as_dino_v1,
    blur_corrected,
    flipped_last,
    moved_forward,
    nothing,
    solarised_too,
    with_inner,
    with_inner_values,
    with_scales,
    with_values,
    without,
)

__all__ = ["Variant", "pairs_of", "variants"]

_ORDER = ("global_1", "global_2", "local")
_FILE = "dinov2/data/augmentations.py"
_BLUR = "dinov2/data/transforms.py:17-21"


@dataclass(frozen=True)
class Variant:
    """A change of official's augmentation.

    Attributes:
        id: of the quirk or difference that it is; empty for none.
        sentence: what the subject does, with official's number.
        official: file:line of what official does.
        edit: makes the change to the transforms of the views, in place.
        order: in which the views are made.
        seed: of every image, whatever parity seeded; None to leave that alone.
    """

    id: str
    sentence: str
    official: str
    edit: Callable[[Chains], None]
    order: tuple[str, ...] = _ORDER
    seed: int | None = None

    def followed_by(self, other: Variant) -> Variant:
        """Return both changes as one."""

        def edit(chains: Chains) -> None:
            self.edit(chains)
            other.edit(chains)

        order = other.order if self.order == _ORDER else self.order
        return Variant("", "", "", edit, order, other.seed if self.seed is None else self.seed)


def variants() -> Iterator[Variant]:
    """Yield every known change, the frequent ones first."""
    yield from _blurs()
    yield from _crops()
    yield from _colours()
    yield from _solarisations()
    yield from _orders()


def pairs_of(known: Iterator[Variant]) -> Iterator[tuple[Variant, Variant]]:
    """Yield pairs of changes: a corrected blur, the one that most forks make, with each of the others."""
    first, *others = known
    for other in others:
        yield first, other


def _blurs() -> Iterator[Variant]:
    yield Variant(
        "Q1",
        "the blur is applied as its numbers read: always to global view 1, to view 2 once in ten; official applies it "
        "with 1 - p: never to view 1, to view 2 nine times in ten",
        _BLUR,
        blur_corrected,
    )
    yield Variant(
        "Q1",
        "the blur and solarisation are DINO v1's, drawn from Python's `random` and applied as their numbers read "
        "(global view 1 always, view 2 once in ten); official blurs view 1 never and view 2 nine times in ten",
        _BLUR,
        as_dino_v1,
    )
    yield Variant("", "every view is blurred; official blurs with 0, 0.9 and 0.5", _BLUR, with_values("blur", p=1.0))
    yield Variant("", "no view is blurred; official blurs with 0, 0.9 and 0.5", _BLUR, with_values("blur", p=0.0))
    yield Variant("", "there is no blur; official blurs with 0, 0.9 and 0.5", _BLUR, without("blur"))
    for kernel in (3, 5, 7, 11, 13, 23):
        edit = with_inner_values("blur", kernel_size=(kernel, kernel))
        yield Variant("", f"the blur's kernel is {kernel} pixels wide, official's 9", _BLUR, edit)
    for sigma in ((0.1, 1.0), (0.1, 0.15), (0.5, 2.0), (0.1, 5.0)):
        edit = with_inner_values("blur", sigma=sigma)
        yield Variant("", f"the blur's sigma is {sigma[0]} to {sigma[1]}, official's 0.1 to 2.0", _BLUR, edit)


def _crops() -> Iterator[Variant]:
    where = f"{_FILE}:46-57"
    for mode in (InterpolationMode.BILINEAR, InterpolationMode.NEAREST, InterpolationMode.LANCZOS):
        sentence = f"crops are resized by {mode.value} interpolation, official's by bicubic"
        yield Variant("", sentence, where, with_values("crop", interpolation=mode))
    named = {
        "torchvision's default": ((0.08, 1.0), (0.08, 1.0)),
        "official's default configuration": ((0.32, 1.0), (0.05, 0.32)),
        "DINO v1": ((0.4, 1.0), (0.05, 0.4)),
        "SwAV": ((0.14, 1.0), (0.05, 0.14)),
        "iBOT": ((0.25, 1.0), (0.05, 0.25)),
    }
    for name, (wide, narrow) in named.items():
        for words, views in (
            (f"global crops {wide} and local ones {narrow}", _ORDER),
            (f"global crops {wide}", _ORDER[:2]),
            (f"local crops {narrow}", _ORDER[2:]),
        ):
            scales = {"global_1": wide, "global_2": wide, "local": narrow}
            edit = with_scales({view: scales[view] for view in views})
            yield Variant("", f"{words} have {name}'s scale, not that of config.crops", where, edit)
    for p in (0.0, 1.0):
        yield Variant("", f"views are flipped with probability {p:g}, official 0.5", where, with_values("flip", p=p))
    yield Variant("", "views are never flipped; official flips half of them", where, without("flip"))


def _colours() -> Iterator[Variant]:
    where = f"{_FILE}:63-72"
    for name, values in (
        ("brightness, contrast, saturation and hue 0.4, 0.4, 0.4, 0.1", (0.4, 0.4, 0.4, 0.1)),
        ("SimCLR's 0.8, 0.8, 0.8, 0.2", (0.8, 0.8, 0.8, 0.2)),
        ("MoCo's 0.4, 0.4, 0.4, 0.4", (0.4, 0.4, 0.4, 0.4)),
        ("half of it, 0.2, 0.2, 0.1, 0.05", (0.2, 0.2, 0.1, 0.05)),
    ):
        jitter = transforms.ColorJitter(*values)
        ranges = {key: getattr(jitter, key) for key in ("brightness", "contrast", "saturation", "hue")}
        edit = with_inner_values("jitter", **ranges)
        yield Variant("", f"the colour jitter is {name}; official's 0.4, 0.4, 0.2, 0.1", where, edit)
    for p in (0.5, 1.0, 0.0):
        sentence = f"colours are jittered with probability {p:g}, official 0.8"
        yield Variant("", sentence, where, with_values("jitter", p=p))
    yield Variant("", "colours are not jittered; official's are with 0.8", where, without("jitter"))
    yield Variant("", "hue is turned the other way round", where, with_inner("jitter", HueReversed))
    sentence = "brightness, contrast, saturation and hue are changed in this order; official's order is random"
    yield Variant("", sentence, where, with_inner("jitter", JitterInOrder))
    for p in (0.0, 0.1, 0.5):
        sentence = f"views are made grey with probability {p:g}, official 0.2"
        yield Variant("", sentence, where, with_values("grayscale", p=p))
    yield Variant("", "no view is made grey; official makes a fifth grey", where, without("grayscale"))
    sentence = "images reach the model as BGR, official's as RGB"
    yield Variant("", sentence, "dinov2/data/datasets/decoders.py:23", as_bgr)


def _solarisations() -> Iterator[Variant]:
    where = f"{_FILE}:75-80"
    for threshold in (127, 129, 64, 192, 0.5, 0):
        sentence = f"solarisation begins at {threshold}, official's at 128"
        yield Variant("", sentence, where, with_values("solarize", threshold=threshold))
    for p in (0.0, 0.1, 0.5, 1.0):
        sentence = f"global view 2 is solarised with probability {p:g}, official 0.2"
        yield Variant("", sentence, where, with_values("solarize", p=p))
    yield Variant("", "no view is solarised; official solarises a fifth of global view 2", where, without("solarize"))
    sentence = "global view 1 is solarised as well; official solarises view 2 alone"
    yield Variant("", sentence, where, solarised_too)


def _orders() -> Iterator[Variant]:
    where = f"{_FILE}:92-94"
    for first, second in pairwise(STEPS[:-1]):
        yield Variant(
            "", f"{second} comes before {first}, official's order is {first}, {second}", where, moved_forward(second)
        )
    sentence = "views are flipped after their colours are changed, official's before"
    yield Variant("", sentence, where, flipped_last)
    whole = f"{_FILE}:96-118"
    local_first = ("local", "global_1", "global_2")
    yield Variant("", "local views are made before the global ones, official's after", whole, nothing, local_first)
    second_first = ("global_2", "global_1", "local")
    yield Variant("", "global view 2 is made before view 1, official's after", whole, nothing, second_first)
    for seed in (0, 42):
        sentence = f"every image is augmented under seed {seed}: all are cut and coloured alike"
        yield Variant("", sentence, "dinov2/train/train.py:175-181", nothing, seed=seed)
