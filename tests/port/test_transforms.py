from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from parity.adapters.official import OfficialStack
from port.data.seeding import seeded
from port.data.transforms import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    gaussian_blur,
    make_classification_eval_transform,
    make_normalize_transform,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def official_transforms(official_stack: OfficialStack) -> Any:
    """Official `dinov2/data/transforms.py`."""
    return official_stack._reference.module("data.transforms")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_constants_are_official_s(official_transforms: Any) -> None:
    """Mean and standard deviation are those that released weights were trained with."""
    assert official_transforms.IMAGENET_DEFAULT_MEAN == IMAGENET_DEFAULT_MEAN
    assert official_transforms.IMAGENET_DEFAULT_STD == IMAGENET_DEFAULT_STD


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    """White becomes (1 - mean) / std in each channel."""
    white = make_normalize_transform()(torch.ones(3, 1, 1)).flatten()
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(white, expected)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (20, 320), (1, 1), (257, 256), (5, 80)])
@pytest.mark.parametrize("sizes", [(224, 256), (28, 32), (30, 30)])
def test_the_evaluation_view_is_official_s(
    official_transforms: Any, width: int, height: int, sizes: tuple[int, int]
) -> None:
    """Every pixel is equal to that of official's view, up to an aspect ratio of 16."""
    crop, resize = sizes
    image = noise(width, height)
    official: Tensor = official_transforms.make_classification_eval_transform(resize_size=resize, crop_size=crop)(image)
    assert torch.equal(make_classification_eval_transform(resize_size=resize, crop_size=crop)(image), official)


@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (98, 112), (32, 37), (1, 1)])
def test_the_shorter_side_is_eight_sevenths_of_the_crop(crop: int, resize: int) -> None:
    """Without a size, 224 is cut out of 256, and other crops in proportion."""
    image = noise(50, 60)
    by_default = make_classification_eval_transform(crop_size=crop)(image)
    assert torch.equal(by_default, make_classification_eval_transform(crop_size=crop, resize_size=resize)(image))


@pytest.mark.parametrize(("width", "height"), [(1, 100_000), (100_000, 1), (3, 60_000)])
def test_a_strip_is_cut_before_it_is_resized(width: int, height: int) -> None:
    """A strip whose resized form would take gigabytes gives the colour of its middle."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    middle = (slice(None), slice(49_000, 51_000)) if height == 1 else (slice(height // 2 - 1000, height // 2 + 1000),)
    pixels[middle] = 255
    view = make_classification_eval_transform(crop_size=28)(Image.fromarray(pixels))
    assert view.shape == (3, 28, 28)
    assert torch.equal(view, make_normalize_transform()(torch.ones(3, 28, 28)))


@pytest.mark.parametrize(("crop", "resize"), [(0, 0), (-1, 0), (224, 200)])
def test_a_crop_must_fit(crop: int, resize: int) -> None:
    """A crop that would be empty or padded with black is refused, with both sizes named."""
    with pytest.raises(ValueError, match=rf"crop_size is {crop} and resize_size .* expected 0 < crop_size <= resize"):
        make_classification_eval_transform(crop_size=crop, resize_size=resize)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_blur_is_official_s(official_transforms: Any, p: float) -> None:
    """Over 20 seeds the blurred images are official's, and so is the next number drawn."""
    image = noise(24, 20)
    for seed in range(20):
        with seeded(seed):
            official = np.asarray(official_transforms.GaussianBlur(p=p)(image)), float(torch.rand(()))
        with seeded(seed):
            ours = np.asarray(gaussian_blur(p, "official")(image)), float(torch.rand(()))
        assert np.array_equal(ours[0], official[0])
        assert ours[1] == official[1]


@pytest.mark.parametrize(
    ("quirk", "p", "expected"), [("official", 1.0, 0.0), ("corrected", 1.0, 1.0), ("official", 0.1, 0.9)]
)
def test_the_quirk_turns_the_probability_round(quirk: str, p: float, expected: float) -> None:
    """Official's blur returns an image unchanged with the declared probability, corrected's with the rest of it."""
    image = noise(12, 12)
    blur = gaussian_blur(p, quirk)
    with seeded(0):
        applied = sum(blur(image) is not image for _ in range(300)) / 300
    assert applied == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 300) ** 0.5)


def test_views_can_be_sent_to_a_worker() -> None:
    """Pickled and back, the evaluation view gives the same pixels."""
    view = make_classification_eval_transform(crop_size=14)
    assert torch.equal(pickle.loads(pickle.dumps(view))(noise(40, 30)), view(noise(40, 30)))  # noqa: S301 - our own bytes
