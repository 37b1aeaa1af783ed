"""From two sets of measurements to sentences: what a stack's augmentation does otherwise than official's."""

from __future__ import annotations

import math
from collections.abc import Iterator

from parity.attribution.augment.charts import VIEWS, Normalisation
from parity.attribution.augment.probes import Measured
from parity.results import Finding

__all__ = ["blur_is_corrected", "differences", "normalisation_differs"]

AUGMENTATIONS = "dinov2/data/augmentations.py"
BLUR = "dinov2/data/transforms.py:17-21"
_SURE = 4.0  # standard deviations of the difference of two shares
_SAME_CONSTANT = 1e-3
_NEVER, _OFTEN = 0.4, 0.6  # shares of blurred crops: declared 0.1 and 1.0, less the blurs too weak to change a pixel

_SHARES = {
    "flipped": ("flipped left to right", ":49, 58"),
    "upside down": ("turned upside down", ":44-60"),
    "solarised": ("visibly solarised", ":78"),
    "grey": ("grey", ":69"),
    "not jittered": ("left in their colours", ":65-68"),
}
_RANGES = {
    "brightness": ("brightness is multiplied by", 0.04, ":66"),
    "contrast": ("contrast is multiplied by", 0.08, ":66"),
    "hue": ("hue is turned by", 0.02, ":66"),
    "global area": ("global crops show a share of the image's area of", 0.06, ":46-48"),
    "local area": ("local crops show a share of the image's area of", 0.035, ":55-57"),
    "aspect": ("crops show an aspect ratio of", 0.15, ":46-57"),
}


def normalisation_differs(official: Normalisation, mine: Normalisation) -> Iterator[Finding]:
    """Explain another mean or standard deviation.

    Args:
        official: measured of the reference.
        mine: measured of the subject.
    """
    pairs = zip((*official.mean, *official.std), (*mine.mean, *mine.std), strict=False)
    if len(mine.mean) == len(official.mean) and all(abs(a - b) < _SAME_CONSTANT for a, b in pairs):
        return
    yield Finding(
        "",
        f"crops are normalised with mean {_spell(mine.mean)} and standard deviation {_spell(mine.std)}; "
        f"official: {_spell(official.mean)} and {_spell(official.std)}",
        "normalise with ImageNet's mean and standard deviation, in RGB",
        "dinov2/data/transforms.py:41-50",
    )


def differences(official: Measured, mine: Measured) -> Iterator[Finding]:
    """Explain everything else that was measured, root cause first; nothing where no difference is certain.

    Args:
        official: measured of the reference.
        mine: measured of the subject.
    """
    yield from _ranges(official, mine, ("global area", "local area", "aspect"))
    if official.overshoot > 0.03 and mine.overshoot < 0.012:
        yield Finding(
            "",
            f"crops never overshoot at an edge ({mine.overshoot:.1%} of it, official {official.overshoot:.1%}), "
            "so they are not resized by bicubic interpolation",
            "interpolation=InterpolationMode.BICUBIC in both random crops",
            f"{AUGMENTATIONS}:46-57",
        )
    if not (official.whole and mine.whole):
        if official.whole:
            yield Finding(
                "",
                "crops at scale 1 do not show the whole image: the scales of config.crops are not what is used, or "
                "views are cut in another way; blur, colours and flips were therefore not measured",
                "pass config.crops.global_crops_scale and local_crops_scale to the random crops",
                f"{AUGMENTATIONS}:46-57",
            )
        return
    if official.aliasing < 4 < 8 < mine.aliasing:
        yield Finding(
            "",
            f"a pattern finer than a crop's pixels leaves noise of {mine.aliasing:.0f} levels (official "
            f"{official.aliasing:.1f}): images are shrunk without antialiasing",
            "crop PIL images, or pass antialias=True",
            f"{AUGMENTATIONS}:46-57",
        )
    yield from _blur(official, mine)
    yield from _shares(official, mine)
    yield from _ranges(official, mine, ("brightness", "contrast", "hue"))


def blur_is_corrected(first: float, second: float) -> bool:
    """Whether global view 1 is (nearly) always blurred and view 2 seldom, as official's numbers read (Q1)."""
    return first > _OFTEN and second < _NEVER


def _blur(official: Measured, mine: Measured) -> Iterator[Finding]:
    names = [f"{view}/blurred" for view in VIEWS]
    if not any(_certain(official.shares[n], mine.shares[n]) for n in names):
        return
    left, right = ([m.shares[n][0] for n in names] for m in (official, mine))
    shares = (
        f"blurred are {right[0]:.0%} of global view 1, {right[1]:.0%} of view 2 and {right[2]:.0%} of local views; "
        f"official {left[0]:.0%}, {left[1]:.0%} and {left[2]:.0%}"
    )
    if blur_is_corrected(right[0], right[1]):
        yield Finding("Q1", f"the blur is applied as its numbers read, not as official applies it: {shares}", *_Q1)
    else:
        yield Finding("", shares, "official applies its blur with 0, 0.9 and 0.5: see `explain Q1`", BLUR)


_Q1 = ("apply the blur with probability 1 - p, as official does: python -m parity explain Q1", BLUR)


def _shares(official: Measured, mine: Measured) -> Iterator[Finding]:
    for name, (words, line) in _SHARES.items():
        views = [v for v in VIEWS if _certain(official.shares[f"{v}/{name}"], mine.shares[f"{v}/{name}"])]
        if views:
            shown = ", ".join(
                f"{mine.shares[f'{v}/{name}'][0]:.0%} of view {v} (official {official.shares[f'{v}/{name}'][0]:.0%})"
                for v in views
            )
            yield Finding("", f"{words} are {shown}", "compare the probabilities", f"{AUGMENTATIONS}{line}")


def _ranges(official: Measured, mine: Measured, names: tuple[str, ...]) -> Iterator[Finding]:
    for name in names:
        if name not in official.ranges or name not in mine.ranges:
            continue
        words, tolerance, line = _RANGES[name]
        left, right = official.ranges[name], mine.ranges[name]
        if max(abs(a - b) for a, b in zip(left, right, strict=True)) > tolerance:
            yield Finding(
                "",
                f"{words} {_to(right)}, official {_to(left)}",
                "compare the ranges",
                f"{AUGMENTATIONS}{line}",
            )


def _certain(left: tuple[float, int], right: tuple[float, int]) -> bool:
    """Whether two shares differ by more than chance, each being of a number of independent crops."""
    (a, n), (b, m) = left, right
    if not n or not m:
        return n != m
    pooled = (a * n + b * m + 1) / (n + m + 2)
    return abs(a - b) > _SURE * math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))


def _spell(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.3f}' for value in values)})"


def _to(ends: tuple[float, float]) -> str:
    low, high = (round(value, 2) + 0.0 for value in ends)  # no -0.00
    return f"{low:.2f} to {high:.2f}"
