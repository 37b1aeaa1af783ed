from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from parity.adapters.official import OfficialStack
from parity.attribution.augment.charts import VIEWS, Normalisation, Show, chess, constant, corner
from parity.attribution.augment.differences import blur_is_corrected, differences, normalisation_differs
from parity.attribution.augment.probes import Measured, measure, measure_normalisation
from parity.checks.augment import small_config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Made:
    """A stack whose views are made of the given steps, cut as official's are."""

    def __init__(self, *steps: Any, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD, **crop: Any) -> None:
        self.steps, self.normalise, self.crop = steps, transforms.Normalize(mean, std), crop

    def _view(self, image: Image.Image, size: int, scale: Any) -> Tensor:
        crop = {"interpolation": InterpolationMode.BICUBIC, "scale": tuple(scale), **self.crop}
        chain = [transforms.RandomResizedCrop(size, **crop), *self.steps, transforms.ToTensor(), self.normalise]
        view: Tensor = transforms.Compose(chain)(image)
        return view

    def augment(self, image: Image.Image, config: Any, seed: int) -> dict[str, list[Tensor]]:
        """Two global crops and the local ones."""
        crops = config.crops
        wide = [self._view(image, crops.global_crops_size, crops.global_crops_scale) for _ in range(2)]
        narrow = [
            self._view(image, crops.local_crops_size, crops.local_crops_scale) for _ in range(crops.local_crops_number)
        ]
        return {"global_crops": wide, "local_crops": narrow}


@pytest.fixture(scope="module")
def of_official(opened_official_stack: OfficialStack) -> Measured:
    """Measured once of official code."""
    return measure(opened_official_stack, small_config())


MEASURED: dict[int, Measured] = {}


def told(official: Measured, stack: Any) -> list[str]:
    """What is said of a stack's augmentation, which is measured once."""
    if id(stack) not in MEASURED:
        MEASURED[id(stack)] = measure(stack, small_config())
    return [finding.sentence for finding in differences(official, MEASURED[id(stack)])]


def test_official_is_measured_as_it_is_declared(of_official: Measured) -> None:
    """Half flipped, a fifth grey, four fifths jittered by up to 0.4, 0.4 and 0.1; the blur as Q1 has it."""
    assert of_official.normalisation.mean == pytest.approx(MEAN, abs=1e-6)
    assert of_official.normalisation.std == pytest.approx(STD, abs=1e-6)
    assert of_official.whole
    shares = {name: share for name, (share, _) in of_official.shares.items()}
    counts = {name: count for name, (_, count) in of_official.shares.items()}
    expected = {"flipped": 0.5, "upside down": 0.0, "grey": 0.2, "not jittered": 0.2}
    for view in VIEWS:
        for name, share in expected.items():
            bound = 5 * (share * (1 - share) / counts[f"{view}/{name}"]) ** 0.5 + 1e-9
            # A jitter of all four by almost nothing leaves colours too.
            assert shares[f"{view}/{name}"] == pytest.approx(share, abs=bound + 0.02), (view, name)
    assert shares["global_1/blurred"] == 0
    assert shares["global_2/blurred"] == pytest.approx(0.83, abs=0.15)
    assert shares["local/blurred"] == pytest.approx(0.46, abs=0.2)
    assert shares["global_1/solarised"] == shares["local/solarised"] == 0
    assert 0.05 < shares["global_2/solarised"] < 0.35
    ranges = of_official.ranges
    assert ranges["brightness"] == pytest.approx((0.6, 1.4), abs=0.03)
    assert ranges["contrast"] == pytest.approx((0.6, 1.4), abs=0.08)
    assert ranges["hue"] == pytest.approx((-0.1, 0.1), abs=0.015)
    assert ranges["global area"][0] == pytest.approx(0.32, abs=0.05)
    assert ranges["local area"] == pytest.approx((0.05, 0.32), abs=0.04)
    assert ranges["aspect"] == pytest.approx((0.75, 1.333), abs=0.12)


def test_official_does_not_differ_from_itself(of_official: Measured, official_stack: OfficialStack) -> None:
    """Another hundred crops, drawn from other seeds, are the same augmentation."""

    class Shifted:
        def augment(self, image: Any, config: Any, seed: int) -> Any:
            torch.manual_seed(seed + 10_000)
            return official_stack.augment(image, config, seed)

    assert told(of_official, Shifted()) == []


def _jitter(*values: float) -> Any:
    return transforms.RandomApply([transforms.ColorJitter(*values)], p=0.8)


PLAIN = Made()
STRONG = Made(
    transforms.RandomVerticalFlip(0.5),
    _jitter(0.8, 0.4, 0.2, 0.3),
    transforms.RandomGrayscale(0.9),
    interpolation=InterpolationMode.BILINEAR,
    ratio=(0.5, 2.0),
)
DARK = Made(_jitter(0.4, 0.8, 0.2, 0.1), transforms.RandomSolarize(64, 0.9), transforms.GaussianBlur(9, (1.0, 2.0)))


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (PLAIN, ("hue is turned by", "flipped left to right are 0% of view global_1")),
        (PLAIN, ("left in their colours are 100% of view global_1 (official",)),
        (STRONG, ("turned upside down are", "brightness is multiplied by 0.", "hue is turned by -0.", "grey are")),
        (STRONG, ("crops never overshoot at an edge", "crops show an aspect ratio of 0.5")),
        (DARK, ("visibly solarised are", "blurred are 100% of global view 1, 100% of view 2 and 100%")),
    ],
)
def test_what_is_otherwise_is_measured(of_official: Measured, stack: Made, words: tuple[str, ...]) -> None:
    """Steps that are missing, stronger, more frequent or other are told with official's number beside them."""
    sentences = told(of_official, stack)
    for part in words:
        assert any(part in sentence for sentence in sentences), (part, sentences)


def test_wider_scales_are_measured(of_official: Measured) -> None:
    """From the edges of a chessboard, for global and local crops apart."""
    config = small_config()
    config.crops.global_crops_scale = [0.1, 1.0]
    sentences = [f.sentence for f in differences(of_official, measure(Made(), config))]
    (area,) = (sentence for sentence in sentences if "share of the image's area" in sentence)
    assert area.startswith("global crops show a share of the image's area of 0.1")
    assert "official 0.3" in area


def test_scales_that_ignore_the_configuration_end_the_measuring(of_official: Measured) -> None:
    """Where crops of the whole chart are not whole, flips and colours are not guessed at."""
    sentences = told(of_official, Made(scale=(0.2, 0.3)))
    assert any("crops at scale 1 do not show the whole image" in sentence for sentence in sentences)
    assert not any("flipped" in sentence or "grey" in sentence for sentence in sentences)


def test_shrinking_without_antialiasing_is_measured(of_official: Measured) -> None:
    """Nearest-neighbour crops of a fine checkerboard keep all of its contrast."""
    sentences = told(of_official, Made(interpolation=InterpolationMode.NEAREST))
    assert any("images are shrunk without antialiasing" in sentence for sentence in sentences)


@pytest.mark.parametrize(("mean", "std"), [((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3), (MEAN, (0.3, 0.2, 0.1))])
def test_normalisation_is_solved_for(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """From black and white, in each channel."""
    found = measure_normalisation(Made(_jitter(0.4, 0.4, 0.2, 0.1), mean=mean, std=std), small_config())
    assert found.mean == pytest.approx(mean, abs=1e-5)
    assert found.std == pytest.approx(std, abs=1e-5)
    (finding,) = normalisation_differs(Normalisation(MEAN, STD), found)
    assert f"mean ({mean[0]:.3f}, {mean[1]:.3f}, {mean[2]:.3f})" in finding.sentence
    assert not list(normalisation_differs(found, found))


def _measured(**shares: float) -> Measured:
    names = ("blurred", "flipped", "upside down", "solarised", "grey", "not jittered")
    values = {f"{view}/{name}": (0.0, 100) for view in VIEWS for name in names}
    values.update({f"{view}/blurred": (share, 100) for view, share in shares.items()})
    return Measured(Normalisation(MEAN, STD), True, values)


@pytest.mark.parametrize(
    ("mine", "identity"),
    [
        ({"global_1": 0.92, "global_2": 0.09, "local": 0.46}, "Q1"),
        ({"global_1": 0.92, "global_2": 0.92, "local": 0.92}, ""),
        ({"global_1": 0.0, "global_2": 0.0, "local": 0.0}, ""),
        ({"global_1": 0.05, "global_2": 0.78, "local": 0.5}, None),
    ],
)
def test_only_a_blur_as_declared_is_q1(mine: dict[str, float], identity: str | None) -> None:
    """Always and never are told by their shares; shares as near as chance allows are nothing."""
    official = _measured(global_1=0.0, global_2=0.83, local=0.46)
    found = [finding.id for finding in differences(official, _measured(**mine))]
    assert found == ([] if identity is None else [identity])
    assert blur_is_corrected(0.9, 0.1)
    assert not blur_is_corrected(0.1, 0.9)


def test_few_crops_are_not_certain() -> None:
    """A share of 3 in 4 against 1 in 4 is told of a hundred crops, and not of four."""
    left, right = _measured(), _measured()
    for count, told_of in ((100, 1), (4, 0)):
        left.shares["local/grey"], right.shares["local/grey"] = (0.25, count), (0.75, count)
        assert len(list(differences(left, right))) == told_of


def test_crops_are_shown_in_levels(official_stack: OfficialStack) -> None:
    """With the right normalisation a chart comes back in its own levels of 0 to 255, as often as asked."""
    show = Show(official_stack, small_config())
    show.normalisation = Normalisation(MEAN, STD)
    crops = show.whole(constant((0, 0, 0)), 3)
    assert {view: len(found) for view, found in crops.items()} == {"global_1": 3, "global_2": 3, "local": 3}
    assert all(np.abs(crop).max() < 1e-3 for found in crops.values() for crop in found)
    assert crops["local"][0].shape == (3, 32, 32)
    cut = show.cut(chess(), {"global": (0.5, 0.6), "local": (0.1, 0.2)}, 1)
    assert cut["global_1"][0].shape == (3, 64, 64)
    assert corner()[0, 0, 0] == 150
    assert (corner() == 150).mean() == 0.25


def test_the_user_s_configuration_is_left_alone(official_stack: OfficialStack) -> None:
    """Charts change sizes and scales in a copy."""
    config = small_config()
    before = str(config.crops)
    measure_normalisation(official_stack, config)
    assert str(config.crops) == before
