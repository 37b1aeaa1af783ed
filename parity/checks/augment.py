"""Family `augment`, the images: every crop of real images under the same seeds, and where on the way they part."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from parity.adapters.transform_steps import STEPS
from parity.attribution.augment import attribute_crops, attribute_decoding, attribute_steps
from parity.checks.base import Check, Context, NotRunError, Observation
from parity.compare import exact, missing
from parity.errors import SubjectError
from parity.photographs import Photograph, encoded, photographs
from parity.recipes import RECIPES
from parity.results import Comparison
from parity.seeding import seeded

__all__ = ["CHECKS", "VIEWS"]

VIEWS = ("global_1", "global_2", "local")
_CROPS = ("global_crops", "local_crops")
_OPTIONAL = ("global_crops_teacher", "offsets")  # nothing reads them (Q32)
_IMAGES, _QUICK_IMAGES = 200, 24
_FULL_SIZE_IMAGES, _QUICK_FULL_SIZE_IMAGES = 4, 1
_TRACED, _QUICK_TRACED = 24, 8
_AUGMENTATIONS = "dinov2/data/augmentations.py:19-118"
_TRANSFORMS = "dinov2/data/transforms.py:12-49"


def small_config() -> DictConfig:
    """The default recipe, with three local crops of 48 and global ones of 96 pixels."""
    return RECIPES[0].config()


def _full_size(config: DictConfig) -> DictConfig:
    config = config.copy()
    config.crops.global_crops_size, config.crops.local_crops_size = 224, 96  # official's
    config.crops.local_crops_number = 8
    return config


def real_images(count: int) -> list[Photograph]:
    """Return real images, the same ones every time.

    Raises:
        NotRunError: there are none on this machine.
    """
    try:
        return list(photographs(count))
    except (ImportError, FileNotFoundError) as error:
        raise NotRunError(f"there are no real images here: {error}") from error


def _crops(context: Context) -> Iterator[Observation]:
    """Every crop of every image, at small sizes and for a few images at the recipes' own."""
    images = real_images(_QUICK_IMAGES if context.quick else _IMAGES)
    failed: list[int] = []
    config = small_config()
    for seed, photograph in enumerate(images):
        comparisons = list(_one_image(context, photograph, config, seed))
        yield from comparisons
        if not all(c.passed for c in comparisons):
            failed.append(seed)
    full = _full_size(config)
    for seed, photograph in enumerate(images[: _QUICK_FULL_SIZE_IMAGES if context.quick else _FULL_SIZE_IMAGES]):
        yield from _one_image(context, photograph, full, seed, prefix="full size/")
    if failed and explainable(context):
        yield from attribute_crops(context.reference, context.subject, config, images, failed)


def explainable(context: Context) -> bool:
    """Whether a cause can be looked for by asking the reference again: an edited one would answer for its edit."""
    return context.reference_info.identity != "modified"


def _one_image(
    context: Context, photograph: Photograph, config: DictConfig, seed: int, prefix: str = ""
) -> Iterator[Comparison]:
    reference, subject = (
        augmented(stack, photograph.image, config, seed) for stack in (context.reference, context.subject)
    )
    name = f"{prefix}image {photograph.name}"
    for key in _CROPS:
        yield from _tensors(f"{name}/{key}", reference[key], subject.get(key))
    for key in _OPTIONAL:
        if key in subject:
            yield from _tensors(f"{name}/{key}", reference[key], subject[key])


def augmented(stack: Any, image: Image.Image, config: DictConfig, seed: int) -> Mapping[str, Any]:
    """Return a stack's crops of an image, with every global generator seeded before.

    Raises:
        SubjectError: the stack returned no mapping.
    """
    seeded(seed)
    crops = stack.augment(image.copy(), config, seed)
    if not isinstance(crops, Mapping):
        raise SubjectError(
            f"augment returned {type(crops).__name__}, expected a mapping with official's keys {', '.join(_CROPS)}"
        )
    return crops


def _tensors(name: str, reference: Sequence[Any], subject: Sequence[Any] | None) -> Iterator[Comparison]:
    """Compare two lists of crops one by one; a crop that only one side has is a failure."""
    if subject is None:
        yield missing(name, in_subject=False)
        return
    for index in range(max(len(reference), len(subject))):
        place = f"{name}[{index}]"
        if index < len(reference) and index < len(subject):
            yield exact(place, reference[index], subject[index])
        else:
            yield missing(place, in_subject=index < len(subject))


def _steps(context: Context) -> Iterator[Observation]:
    """After each transform of each view: the first that differs is named, those after it follow from it."""
    config = small_config()
    parted: dict[str, list[str]] = {view: [] for view in VIEWS}
    blurred: dict[str, list[tuple[bool, bool]]] = {view: [] for view in VIEWS}
    images = real_images(_QUICK_TRACED if context.quick else _TRACED)
    for seed, photograph in enumerate(images):
        for view in VIEWS:
            sides = []
            for stack in (context.reference, context.subject):
                seeded(seed)
                sides.append(stack.augment_steps(photograph.image.copy(), config, view, seed))
            reference, subject = sides
            blurred[view].append((_changed_by("blur", reference), _changed_by("blur", subject)))
            for comparison in _until_parted(f"image {photograph.name}/{view}", reference, subject):
                yield comparison
                if not comparison.passed:
                    parted[view].append(comparison.name.rsplit("/", 1)[1])
    yield from attribute_steps(parted, blurred, len(images))


def _until_parted(name: str, reference: Mapping[str, Tensor], subject: Mapping[str, Tensor]) -> Iterator[Comparison]:
    extra = [step for step in subject if step not in reference]
    for step in [*(s for s in STEPS if s in reference), *extra]:
        both = step in reference and step in subject
        if both:
            comparison = exact(f"{name}/{step}", reference[step], subject[step])
        else:
            comparison = missing(f"{name}/{step}", in_subject=step in subject)
        yield comparison
        if not comparison.passed:
            return


def _changed_by(step: str, images: Mapping[str, Tensor]) -> bool:
    """Whether a step changed its image."""
    names = list(images)
    if step not in names or names.index(step) == 0:
        return False
    before, after = images[names[names.index(step) - 1]], images[step]
    return before.shape != after.shape or not torch.equal(before, after)


def _evaluation(context: Context) -> Iterator[Observation]:
    """The view that evaluation takes of an image: resized, cropped in the middle, normalised."""
    for number, photograph in enumerate(real_images(12 if context.quick else 40)):
        resize, crop = ((256, 224), (64, 56), (32, 32), (37, 28))[number % 4]
        sides = [
            stack.evaluation_view(photograph.image.copy(), resize, crop)
            for stack in (context.reference, context.subject)
        ]
        yield exact(f"image {photograph.name}/{crop} of {resize} pixels", *sides)


def _decoding(context: Context) -> Iterator[Observation]:
    """From a file's bytes to RGB: alpha is dropped, CMYK converted, an EXIF orientation ignored."""
    try:
        files = list(encoded())
    except (ImportError, FileNotFoundError) as error:
        raise NotRunError(f"there are no real images here: {error}") from error
    parted: list[tuple[str, bytes, np.ndarray]] = []
    for name, data in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of palettes with transparency
            official, mine = (np.array(stack.decode_image(data)) for stack in (context.reference, context.subject))
        comparison = exact(f"file/{name}", official, mine)
        yield comparison
        if not comparison.passed:
            parted.append((name, data, mine))
    yield from attribute_decoding(parted)


CHECKS = (
    Check(
        "augment.crops",
        "L1",
        f"every crop of {_IMAGES} regions of the 17 real images that scikit-image ships ({_QUICK_IMAGES} with --quick)",
        (_AUGMENTATIONS, _TRANSFORMS, "dinov2/train/train.py:175-181"),
        ("augment",),
        _crops,
        draws=("augment",),
    ),
    Check(
        "augment.steps",
        "L1",
        "the image after each transform of each view: crop, flip, jitter, grayscale, blur, solarize, normalize",
        (_AUGMENTATIONS, _TRANSFORMS),
        ("augment_steps",),
        _steps,
        draws=("augment_steps",),
    ),
    Check(
        "augment.evaluation",
        "L1",
        "the view that evaluation takes of an image: resize, centre crop, normalisation",
        ("dinov2/data/transforms.py:77-91",),
        ("evaluation_view",),
        _evaluation,
    ),
    Check(
        "augment.decoding",
        "L1",
        "files of 8 bits to RGB: JPEG, PNG, GIF, TIFF and BMP; grey, palette, CMYK, alpha, EXIF orientation, frames",
        ("dinov2/data/datasets/decoders.py:17-23",),
        ("decode_image",),
        _decoding,
    ),
)
