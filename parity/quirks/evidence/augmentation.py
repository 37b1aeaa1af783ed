"""What official's augmentation and data sets do."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from PIL import Image

from parity.quirks.evidence.tools import Observation, raised
from parity.quirks.sources import strings_read
from parity.reference import Reference

__all__ = ["blur", "data_sets", "teacher_crops"]

_DRAWS = 400
# 400 draws of a probability of 0.1 or 0.9 stay within 0.08 but once in ten million times.
_SLACK = 0.08


def blur(reference: Reference) -> Observation:
    """Count how often official's `GaussianBlur(p)` blurs, at the probabilities of crop 1, crop 2 and local crops.

    The blur itself is replaced by a mark: a small sigma leaves an image as it was.
    """
    kind = reference.module("data.transforms").GaussianBlur
    shares = {p: _applied(kind(p=p)) for p in (1.0, 0.1, 0.5)}
    confirmed = shares[1.0] == 0 and abs(shares[0.1] - 0.9) < _SLACK and abs(shares[0.5] - 0.5) < _SLACK
    seen = ", ".join(f"p={p:g}: {share:.0%}" for p, share in shares.items())
    return Observation(confirmed, f"share of {_DRAWS} images blurred at {seen}")


def _applied(transform: Any) -> float:
    """Return how often a torchvision `RandomApply` applies what it holds."""
    transform.transforms = [lambda _: True]
    return float(np.mean([transform(False) for _ in range(_DRAWS)]))


def data_sets(reference: Reference) -> Observation:
    """Ask a subset of ImageNet for its length, and ImageNet22k for the entries that it would write."""
    imagenet = reference.module("data.datasets.image_net").ImageNet
    subset = imagenet.__new__(imagenet)  # its constructor wants metadata files, its length only these two
    subset._split, subset._entries = imagenet.Split.TRAIN, np.zeros(3)
    length = raised(lambda: len(subset), AssertionError)
    larger = reference.module("data.datasets.image_net_22k").ImageNet22k
    entries = raised(lambda: larger.__new__(larger)._load_entries_class_ids("folder"), AttributeError, OSError)
    confirmed = length is not None and "get_root" in str(entries)
    return Observation(
        confirmed,
        f"len() of 3 images: {_named(length)}; listing ImageNet22k: {_named(entries)}",
    )


def _named(error: Exception | None) -> str:
    """Return an error in words."""
    return "no error" if error is None else f"{type(error).__name__} {error}".strip()


def teacher_crops(reference: Reference) -> Observation:
    """Cut one image, compare the teacher's crops with the others, and look for who reads them."""
    cut = reference.module("data.augmentations").DataAugmentationDINO(
        (0.3, 1.0), (0.05, 0.3), 1, global_crops_size=16, local_crops_size=8
    )
    pixels = np.frombuffer(random.randbytes(24 * 24 * 3), dtype=np.uint8).reshape(24, 24, 3)
    output = cut(Image.fromarray(pixels))
    made = output.get("global_crops_teacher")
    if made is None:
        return Observation(False, "no global_crops_teacher are made")
    same = all(a is b for a, b in zip(made, output["global_crops"], strict=True))
    readers = strings_read(reference, "global_crops_teacher")
    seen = f"{'the same tensors' if same else 'other tensors'} as global_crops; read in {len(readers)} places"
    return Observation(same and not readers, seen)
