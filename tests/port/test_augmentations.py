from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from parity.adapters.official import OfficialStack
from port.data.augmentations import DataAugmentationDINO
from port.data.seeding import seeded
from port.data.transforms import make_normalize_transform

SCALES = ([0.32, 1.0], [0.05, 0.32])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth RGB picture with an edge and some noise: something for every distortion to change."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    smooth[:, width // 2 :] += 40
    return Image.fromarray(np.clip(smooth + generator.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8))


def distortions(augmentation: DataAugmentationDINO) -> list[set[str]]:
    """Return the names of the transforms in the three kinds of view."""
    found: list[set[str]] = []
    for view in (augmentation.global_view_1, augmentation.global_view_2, augmentation.local_view):
        assert isinstance(view, transforms.Compose)
        inner = [getattr(step, "transforms", [step])[0] for step in view.transforms]
        found.append({type(step).__name__ for step in inner})
    return found


def share_blurred(blur: str, view: int, n: int = 200) -> float:
    """Return the share of views in which the blur runs, counted by calls."""
    augmentation: Any = DataAugmentationDINO(*SCALES, 1, 16, 8, blur=blur)
    compose = (augmentation.global_view_1, augmentation.global_view_2, augmentation.local_view)[view]
    (random_apply,) = [
        step
        for step in compose.transforms
        if isinstance(step, transforms.RandomApply) and isinstance(step.transforms[0], transforms.GaussianBlur)
    ]
    calls: list[Image.Image] = []

    def count(image: Image.Image) -> Image.Image:
        calls.append(image)
        return image

    random_apply.transforms = [count]
    with seeded(0):
        for _ in range(n):
            compose(photograph(20, 20))
    return len(calls) / n


@pytest.mark.parametrize(
    ("width", "height"), [(160, 120), (90, 200), (32, 32), (1, 1), (1, 50), (400, 2), (7, 5)], ids=str
)
def test_every_crop_is_official_s(official_stack: OfficialStack, width: int, height: int) -> None:
    """Under the same seed each of ten crops equals official's bit for bit, and so do the numbers drawn afterwards."""
    arguments: dict[str, Any] = {"global_crops_size": 56, "local_crops_size": 24}
    official = official_stack._reference.module("data.augmentations").DataAugmentationDINO(*SCALES, 8, **arguments)
    ours = DataAugmentationDINO(*SCALES, 8, **arguments)
    for seed in range(6):
        image = photograph(width, height, seed)
        with seeded(seed):
            expected = official(image)
            after = float(torch.rand(())), float(np.random.rand())
        with seeded(seed):
            views = ours(image)
            assert (float(torch.rand(())), float(np.random.rand())) == after
        for key in ("global_crops", "local_crops"):
            assert len(views[key]) == len(expected[key])
            for crop, official_crop in zip(views[key], expected[key], strict=True):
                assert torch.equal(crop, official_crop)


def test_official_s_own_sizes_give_official_s_crops(official_stack: OfficialStack) -> None:
    """With the sizes of the recipes, 224 and 96 pixels, the first crops of each kind are official's."""
    official = official_stack._reference.module("data.augmentations").DataAugmentationDINO(*SCALES, 1)
    image = photograph(256, 300)
    with seeded(3):
        expected = official(image)
    with seeded(3):
        views = DataAugmentationDINO(*SCALES, 1)(image)
    assert torch.equal(views["global_crops"][0], expected["global_crops"][0])
    assert torch.equal(views["global_crops"][1], expected["global_crops"][1])
    assert torch.equal(views["local_crops"][0], expected["local_crops"][0])


def test_only_what_collate_takes_is_returned() -> None:
    """The teacher's crops, the same tensors again in official's output, are left out."""
    views = DataAugmentationDINO(*SCALES, 3, 28, 14)(photograph(40, 40))
    assert {key: len(value) for key, value in views.items() if isinstance(value, list)} == {
        "global_crops": 2,
        "local_crops": 3,
    }
    assert [crop.shape for crop in views["global_crops"]] == [(3, 28, 28)] * 2
    assert [crop.shape for crop in views["local_crops"]] == [(3, 14, 14)] * 3


@pytest.mark.parametrize(
    ("blur", "shares"), [("official", (0.0, 0.9, 0.5)), ("corrected", (1.0, 0.1, 0.5))], ids=["official", "corrected"]
)
def test_how_often_views_are_blurred(blur: str, shares: tuple[float, ...]) -> None:
    """Official blurs crop 1 never and crop 2 nine times in ten; corrected turns this round (Q1)."""
    for view, expected in enumerate(shares):
        bound = 5 * (expected * (1 - expected) / 200) ** 0.5
        assert share_blurred(blur, view) == pytest.approx(expected, abs=bound)


def test_histology_flips_upside_down_and_keeps_its_colours() -> None:
    """Vertical flips are added; grey and solarised views are not made."""
    plain, histology = (
        distortions(DataAugmentationDINO(*SCALES, 1, 28, 14, flavour=flavour)) for flavour in ("dinov2", "histology")
    )
    assert [views - others for views, others in zip(histology, plain, strict=True)] == [{"RandomVerticalFlip"}] * 3
    assert [others - views for views, others in zip(histology, plain, strict=True)] == [
        {"RandomGrayscale"},
        {"RandomGrayscale", "RandomSolarize"},
        {"RandomGrayscale"},
    ]


def test_histology_s_flips_are_independent() -> None:
    """Each of the four corners of an image comes to the top left in a quarter of the views."""
    corners = np.zeros((2, 2, 3), dtype=np.uint8)
    corners[0, 0], corners[0, 1], corners[1, 0], corners[1, 1] = (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 250)
    image = Image.fromarray(corners).resize((32, 32), Image.Resampling.NEAREST)
    augmentation = DataAugmentationDINO((1.0, 1.0), (1.0, 1.0), 200, 32, 32, flavour="histology")
    with seeded(0):
        views = augmentation(image)["local_crops"]
    white = make_normalize_transform()(torch.ones(3, 1, 1))
    quadrants = torch.stack([(view - white).abs().sum(0) for view in views])  # white, although jittered, is nearest 0
    corner = torch.stack([quadrants[:, 2, 2], quadrants[:, 2, -3], quadrants[:, -3, 2], quadrants[:, -3, -3]])
    counts = torch.bincount(corner.argmin(0), minlength=4)
    assert counts.sum() == 200
    assert (counts - 50).abs().max() < 5 * (200 * 0.25 * 0.75) ** 0.5


def test_histology_moves_colours_half_as_far() -> None:
    """A grey picture's brightness stays within a fifth, where official's goes as far as two fifths."""
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    ranges: dict[str, float] = {}
    for flavour in ("dinov2", "histology"):
        augmentation = DataAugmentationDINO((0.9, 1.0), (0.9, 1.0), 300, 8, 8, flavour=flavour)
        with seeded(0):
            levels = torch.stack([crop[0, 4, 4] * 0.229 + 0.485 for crop in augmentation(grey)["local_crops"]])
        ranges[flavour] = float((levels * 255 / 128 - 1).abs().max())
    assert 0.15 < ranges["histology"] <= 0.21
    assert 0.35 < ranges["dinov2"] <= 0.41


def test_views_can_be_sent_to_a_worker() -> None:
    """Pickled and back, the augmentation cuts the same views."""
    augmentation = DataAugmentationDINO(*SCALES, 1, 28, 14, flavour="histology")
    copy = pickle.loads(pickle.dumps(augmentation))  # noqa: S301 - our own bytes
    with seeded(1):
        expected = augmentation(photograph(40, 30))
    with seeded(1):
        assert torch.equal(copy(photograph(40, 30))["local_crops"][0], expected["local_crops"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blur": "Official"}, r"quirks.blur is 'Official', expected official or corrected"),
        ({"flavour": "satellite"}, r"data.augmentation is 'satellite', expected dinov2 or histology"),
        ({"local_crops_size": 4}, r"a crop has 4 pixels a side, expected at least 5"),
        ({"global_crops_size": 0}, r"a crop has 0 pixels a side, expected at least 5"),
    ],
    ids=["blur", "flavour", "local", "global"],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    """What is not known, or too small to blur, is an error that names its key."""
    with pytest.raises(ValueError, match=message):
        DataAugmentationDINO(*SCALES, 2, **options)


def test_the_smallest_crop_can_be_blurred() -> None:
    """Five pixels a side, the smallest size that is accepted, are enough for the blur."""
    views = DataAugmentationDINO(*SCALES, 1, 5, 5, blur="corrected")(photograph(9, 9))
    assert views["global_crops"][0].shape == (3, 5, 5)


def test_no_local_crops() -> None:
    """Without local crops there is an empty list, and their size does not matter."""
    assert DataAugmentationDINO(*SCALES, 0, 28, 0)(photograph(40, 40))["local_crops"] == []
