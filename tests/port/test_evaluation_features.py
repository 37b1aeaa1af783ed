from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import pytest
import torch
from evaluation_images import MemorySource, backbone, noise
from PIL import Image

from port.data.transforms import make_classification_eval_transform
from port.evaluation import extract_features, knn_accuracy, raw_pixel_features

extract = partial(extract_features, crop_size=16, resize_size=16)


def source(n: int = 5) -> MemorySource:
    """Return images of noise with labels 0, 1, 2, 0, 1."""
    return MemorySource([noise(i) for i in range(n)], [i % 3 for i in range(n)])


def test_features_are_the_normalised_cls_tokens() -> None:
    """Of each image's centre crop, seen by the backbone in evaluation mode, alone."""
    network, given = backbone(), source()
    found = extract(network, given, batch_size=2)
    view = make_classification_eval_transform(crop_size=16, resize_size=16)
    network.eval()
    for image, feature in zip(given.images, found.features, strict=True):
        assert image is not None
        with torch.no_grad():
            token = network(view(image).unsqueeze(0))[0]
        torch.testing.assert_close(feature, token / token.norm(), rtol=1e-4, atol=1e-6)
    assert found.features.dtype == torch.float32
    assert found.labels.tolist() == [0, 1, 2, 0, 1]
    assert found.skipped == ()


def test_the_network_and_the_random_streams_are_as_before() -> None:
    """Training goes on as if nothing had been evaluated: modes, weights, gradients and torch's and numpy's numbers."""
    network = backbone()
    weights = [p.detach().clone() for p in network.parameters()]
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())
    first = extract(network, source()).features
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy_state
    assert all(module.training for module in network.modules())
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(network.parameters(), weights, strict=True))
    assert not first.requires_grad
    assert torch.equal(first, extract(network, source()).features)


def test_damaged_images_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Four of six: the others' features are those without them, and the first three are named."""
    images = [noise(0), None, None, noise(3), None, None]
    with caplog.at_level(logging.WARNING, logger="port"):
        found = extract(backbone(), MemorySource(images, [0, 1, 2, 0, 1, 2]), batch_size=2)
    whole = extract(backbone(), MemorySource([noise(0), noise(3)], [0, 0]), batch_size=1)
    torch.testing.assert_close(found.features, whole.features)
    assert [bad.name for bad in found.skipped] == ["1.png", "2.png", "4.png", "5.png"]
    (line,) = caplog.messages
    assert line.startswith("evaluation leaves out 4 of 6 images: 1.png: it is truncated; 2.png: ")
    assert line.endswith("; and 1 more")


def test_no_readable_image_is_an_error() -> None:
    """It names the data set and the first reason."""
    with pytest.raises(ValueError, match=r"2 images in memory: no image can be read; 0\.png: it is truncated; 1"):
        extract(backbone(), MemorySource([None, None], [0, 1]))


def test_sizes_are_checked_before_anything_is_read() -> None:
    """Not after half an hour of reading."""
    with pytest.raises(ValueError, match="multiple of the patch size 4"):
        extract_features(backbone(), MemorySource([None], [0]), crop_size=18)
    with pytest.raises(ValueError, match="resize_size 8"):
        extract_features(backbone(), MemorySource([None], [0]), crop_size=16, resize_size=8)


def test_autocast_covers_the_backbone_alone() -> None:
    """Under bfloat16 products the features are still float32 and of length 1, close to the exact ones."""

    def bfloat16() -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    exact = extract(backbone(), source()).features
    rough = extract(backbone(), source(), autocast=bfloat16).features
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.norm(dim=1), torch.ones(5))
    assert not torch.equal(rough, exact)
    assert (rough * exact).sum(1).min() > 0.99


def test_raw_pixels_are_correlations() -> None:
    """Rows have mean 0 and length 1; an image with half the contrast and more light is the same image."""
    image = noise(0, 8, 8)
    dimmer = Image.fromarray((np.asarray(image) // 2 + 60).astype(np.uint8))
    found = raw_pixel_features(MemorySource([image, dimmer, noise(1, 8, 8)], [0, 0, 1]), [7])[0]
    assert found.features.shape == (3, 7 * 7 * 3)
    torch.testing.assert_close(found.features.mean(1), torch.zeros(3), rtol=0, atol=1e-6)
    products = found.features @ found.features.T
    torch.testing.assert_close(products.diagonal(), torch.ones(3))
    assert products[0, 1] > 0.999
    assert products[0, 2].abs() < 0.5


def test_several_sizes_are_read_at_once() -> None:
    """Each size's features are those that it has alone, and every image is read a single time."""

    class Counted(MemorySource):
        reads = 0

        def load(self, index: int) -> Image.Image:
            self.reads += 1
            return super().load(index)

    images, labels = [noise(seed, 12, 9) for seed in range(3)], [0, 1, 0]
    counted = Counted(images, labels)
    together = raw_pixel_features(counted, [4, 6])
    assert counted.reads == 3
    for size, found in zip([4, 6], together, strict=True):
        alone = raw_pixel_features(MemorySource(images, labels), [size])[0]
        assert found.features.shape == (3, size * size * 3)
        assert torch.equal(found.labels, torch.tensor(labels))
        torch.testing.assert_close(found.features, alone.features)
        torch.testing.assert_close(found.features.norm(dim=1), torch.ones(3))


def test_raw_pixels_of_one_colour_are_no_division_by_zero() -> None:
    """A flat image has no direction: its feature is 0."""
    found = raw_pixel_features(MemorySource([Image.new("RGB", (8, 8), (9, 9, 9))], [0]), [4], grey=True)[0]
    assert found.features.shape == (1, 16)
    assert found.features.isfinite().all()
    assert found.features.abs().max() < 1e-3


def test_grey_pixels_know_no_colour() -> None:
    """Red and blue of equal luminance are told apart with colour only."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4, :, 0] = 100  # of red, 0.299 of luminance
    swapped = np.zeros((8, 8, 3), np.uint8)
    swapped[:4, :, 1] = 51  # of green, 0.587 of luminance
    pair = MemorySource([Image.fromarray(pixels), Image.fromarray(swapped)], [0, 1])
    coloured, grey = (raw_pixel_features(pair, [7], grey=grey)[0].features for grey in (False, True))
    assert coloured[0] @ coloured[1] < 0.9
    assert grey[0] @ grey[1] > 0.99


def test_a_network_that_sees_brightness_tells_dark_from_light() -> None:
    """The whole way to an accuracy: dark and light images, whose CLS tokens even an untrained network keeps apart."""

    def shaded(n: int, seed: int) -> MemorySource:
        shades = [np.asarray(noise(seed + i)) // 8 + (0 if i % 2 else 220) for i in range(n)]
        return MemorySource([Image.fromarray(shade.astype(np.uint8)) for shade in shades], [i % 2 for i in range(n)])

    train = extract(backbone(), shaded(12, 0))
    test = extract(backbone(), shaded(8, 100))
    assert knn_accuracy(train.features, train.labels, test.features, test.labels, k=3) == 1.0
