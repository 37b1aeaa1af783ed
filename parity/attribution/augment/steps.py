"""Signatures of a view that parts from official's after one of its transforms, and of files decoded otherwise."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from parity.attribution.augment.differences import blur_is_corrected
from parity.results import Finding

__all__ = ["attribute_decoding", "attribute_steps"]

_LINES = {
    "crop": "dinov2/data/augmentations.py:46-57",
    "flip": "dinov2/data/augmentations.py:49, 58",
    "jitter": "dinov2/data/augmentations.py:65-68",
    "grayscale": "dinov2/data/augmentations.py:69",
    "blur": "dinov2/data/transforms.py:12-21",
    "solarize": "dinov2/data/augmentations.py:78",
    "normalize": "dinov2/data/transforms.py:41-50",
}
_DECODERS = "dinov2/data/datasets/decoders.py:23"


def attribute_steps(
    parted: Mapping[str, Sequence[str]], blurred: Mapping[str, Sequence[tuple[bool, bool]]], images: int
) -> Iterator[Finding]:
    """Name the transform after which views first differ.

    Args:
        parted: by view, the first step that differs, of each image that has one.
        blurred: by view, whether the blur changed official's and the subject's image, for each image.
        images: number of images.
    """
    for step, line in _LINES.items():
        counts = {view: Counter(steps)[step] for view, steps in parted.items()}
        views = [view for view in counts if counts[view]]
        if not views:
            continue
        where = ", ".join(f"{view} ({counts[view]} of {images} images)" for view in views)
        known = step == "blur" and _corrected(blurred)
        sentence = f"views first differ after `{step}`: {where}"
        if known:
            shares = [np.mean(blurred[view], axis=0) for view in ("global_1", "global_2")]
            sentence += "; it changes " + " and ".join(
                f"{mine:.0%} of view {number} (official {official:.0%})"
                for number, (official, mine) in enumerate(shares, start=1)
            )
        fix = "python -m parity explain Q1" if known else f"compare `{step}` with official's"
        yield Finding("Q1" if known else "", sentence, fix, line)


def _corrected(blurred: Mapping[str, Sequence[tuple[bool, bool]]]) -> bool:
    if not all(blurred.get(view) for view in ("global_1", "global_2")):
        return False
    first, second = (float(np.mean([mine for _, mine in blurred[view]])) for view in ("global_1", "global_2"))
    return blur_is_corrected(first, second)


def attribute_decoding(parted: Sequence[tuple[str, bytes, np.ndarray]]) -> Iterator[Finding]:
    """Name what a decoder does otherwise than `Image.open(…).convert("RGB")`.

    Args:
        parted: name, content and decoded pixels (H, W, 3) of the files that differ.
    """
    causes: dict[str, list[str]] = {}
    for name, data, pixels in parted:
        causes.setdefault(_cause(data, pixels), []).append(name)
    for cause, names in causes.items():
        if cause:
            yield Finding(
                "",
                f"{cause}: {', '.join(names)}",
                'decode with Image.open(…).convert("RGB"), as official does',
                _DECODERS,
            )


def _cause(data: bytes, pixels: np.ndarray) -> str:
    """Return which known decoding gives the pixels; nothing where none does."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        plain = np.array(image.convert("RGB"))
        if np.array_equal(pixels, plain[..., ::-1]):
            return "channels come as BGR, official's as RGB"
        if np.array_equal(pixels, np.array(ImageOps.exif_transpose(image).convert("RGB"))):
            return "the EXIF orientation is applied, official ignores it"
        for colour in ("white", "black"):
            ground = Image.new("RGBA", image.size, colour)
            if np.array_equal(pixels, np.array(Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB"))):
                return f"transparency is blended onto {colour}, official drops it"
        if pixels.ndim == 2 or pixels.shape[-1] != plain.shape[-1]:
            return f"the image keeps its own mode (pixels {pixels.shape}), official's is RGB"
    return ""
