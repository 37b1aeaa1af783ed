from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms import functional as F

from parity.crop_statistics import Levels, chart, chart_features, levels_of, photograph_features

SIZE = 48


def cut(left: float, top: float, width: float, height: float) -> Image.Image:
    """A crop of the chart, as shares of its sides, resized as official resizes."""
    side = chart().width
    box = [round(value * side) for value in (left, top, left + width, top + height)]
    return chart().crop((box[0], box[1], box[2], box[3])).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def levels(image: Image.Image) -> Levels:
    """An image as levels (3, H, W)."""
    found: Levels = np.asarray(image, dtype=np.float64).transpose(2, 0, 1)
    return found


def read(image: Image.Image) -> dict[str, float]:
    """What is read off one crop."""
    return dict(chart_features([levels(image)]))


WHOLE = cut(0, 0, 1, 1)
CROPS = [
    (0.0, 0.0, 1.0, 1.0),
    (0.1, 0.2, 0.8, 0.6),
    (0.5, 0.5, 0.5, 0.5),
    (0.3, 0.05, 0.25, 0.3),
    (0.7, 0.4, 0.2, 0.25),
]


@pytest.mark.parametrize("box", CROPS)
def test_scale_shape_and_place_are_read_off(box: tuple[float, float, float, float]) -> None:
    """Area, aspect ratio and middle of a crop are those of the box that was cut."""
    left, top, width, height = box
    found = read(cut(*box))
    assert found["area"] == pytest.approx(width * height, rel=0.05)
    assert found["aspect"] == pytest.approx(math.log(width / height), abs=0.05)
    assert found["column of the middle"] == pytest.approx(left + width / 2, abs=0.03)
    assert found["row of the middle"] == pytest.approx(top + height / 2, abs=0.03)
    assert (found["flipped"], found["upside down"], found["shows its squares"]) == (0, 0, 1)


@pytest.mark.parametrize("box", CROPS[1:])
def test_flips_are_told_apart_and_do_not_move_the_middle(box: tuple[float, float, float, float]) -> None:
    """A mirrored crop shows the same place, a flipped one too; each is named, both together as well."""
    plain, image = read(cut(*box)), cut(*box)
    for turned, names in (
        (ImageOps.mirror(image), ["flipped"]),
        (ImageOps.flip(image), ["upside down"]),
        (ImageOps.mirror(ImageOps.flip(image)), ["flipped", "upside down"]),
    ):
        found = read(turned)
        assert [name for name in ("flipped", "upside down") if found[name]] == names
        for name in ("area", "column of the middle", "row of the middle", "saturation"):
            assert found[name] == pytest.approx(plain[name], rel=0.05, abs=0.01), name


@pytest.mark.parametrize("turn", [-0.1, 0.05, 0.1])
def test_colours_change_neither_place_nor_shape(turn: float) -> None:
    """Official's most extreme hue is read in degrees, weaker saturation as a share; where the crop is from stays."""
    plain = read(cut(0.1, 0.2, 0.5, 0.6))
    image = F.adjust_hue(cut(0.1, 0.2, 0.5, 0.6), turn)
    found = read(ImageEnhance.Color(image).enhance(0.8))
    assert found["turn of the hue"] == pytest.approx(360 * abs(turn), abs=8)
    assert found["saturation"] == pytest.approx(0.8 * plain["saturation"], rel=0.12)
    for name in ("area", "aspect", "column of the middle", "row of the middle", "flipped"):
        assert found[name] == pytest.approx(plain[name], rel=0.1, abs=0.03), name


def test_the_tint_is_read_in_levels_at_the_border() -> None:
    """The chart's own: 20 levels of red against blue, hue not turned, whatever part of it is shown."""
    for box in CROPS:
        found = read(cut(*box))
        assert found["saturation"] == pytest.approx(20, rel=0.1), box
        assert found["turn of the hue"] < 4, box


@pytest.mark.parametrize("factor", [0.6, 0.8])
def test_brightness_and_contrast_are_the_mean_and_deviation_of_levels(factor: float) -> None:
    """Darker by a factor: so are mean and deviation; contrast alone keeps the mean. Neither moves the crop."""
    plain = read(WHOLE)
    darker, flatter = read(ImageEnhance.Brightness(WHOLE).enhance(factor)), read(F.adjust_contrast(WHOLE, factor))
    assert plain["level"] == pytest.approx((90 + 226) / 2, abs=1)
    assert darker["level"] == pytest.approx(factor * plain["level"], abs=1)
    assert darker["contrast"] == pytest.approx(factor * plain["contrast"], rel=0.02)
    assert flatter["level"] == pytest.approx(plain["level"], abs=1.5)
    assert flatter["contrast"] == pytest.approx(factor * plain["contrast"], rel=0.02)
    assert darker["area"] == flatter["area"] == pytest.approx(1, abs=0.02)


def test_grey_crops_tell_no_tint_but_their_squares() -> None:
    """Grey: a share of 1, area as before, and nothing about flips and hue."""
    found = read(ImageOps.grayscale(cut(0.1, 0.2, 0.8, 0.6)).convert("RGB"))
    assert (found["grey"], read(WHOLE)["grey"]) == (1, 0)
    assert found["area"] == pytest.approx(0.48, rel=0.05)
    assert all(math.isnan(found[name]) for name in ("flipped", "turn of the hue", "saturation", "row of the middle"))


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_solarised_crops_are_told_at_any_brightness(factor: float) -> None:
    """Inverted from 128 on, as official does: nothing bright is left, the squares are; without it something is."""
    image = ImageEnhance.Brightness(cut(0.2, 0.2, 0.6, 0.6)).enhance(factor)
    found, plain = read(ImageOps.solarize(image, 128)), read(image)
    assert (found["solarised"], plain["solarised"]) == (1, 0)
    assert found["shows its squares"] == 1
    assert math.isnan(found["flipped"])


@pytest.mark.parametrize("box", CROPS)
def test_blur_takes_the_edges_steepness_whatever_the_scale(box: tuple[float, float, float, float]) -> None:
    """Sharp crops pass more than half of an edge within a pixel, a blur of 1.5 pixels leaves less."""
    sharp, soft = read(cut(*box)), read(cut(*box).filter(ImageFilter.GaussianBlur(1.5)))
    assert (sharp["blurred"], soft["blurred"]) == (0, 1)
    assert sharp["sharpness"] > 0.5 > soft["sharpness"] > 0


def test_a_crop_of_one_colour_shows_nothing_but_its_level() -> None:
    """No squares, no edge, no tint: NaN, no warning; level 200 and grey."""
    found = chart_features([np.full((3, 32, 32), 200.0)] * 2)
    assert (found["level"], found["grey"], found["shows its squares"], found["spread of the level"]) == (200, 1, 0, 0)
    assert all(math.isnan(found[name]) for name in ("area", "aspect", "sharpness", "blurred", "flipped"))


def test_means_leave_out_what_is_not_shown_and_spreads_are_within_the_batch() -> None:
    """One grey crop of two: half are grey, the area's mean and spread are of both, flips of the other alone."""
    grey = ImageOps.grayscale(cut(0, 0, 0.5, 0.5)).convert("RGB")
    found = chart_features([levels(WHOLE), levels(grey)])
    assert found["grey"] == 0.5
    assert found["area"] == pytest.approx((1 + 0.25) / 2, abs=0.02)
    assert found["spread of the area"] == pytest.approx(0.75 / math.sqrt(2), abs=0.02)
    assert found["flipped"] == 0
    assert math.isnan(found["spread of the saturation"])


def test_levels_undo_official_s_normalisation() -> None:
    """0 is the mean of ImageNet, (1 - mean) / std is white."""
    crop = np.zeros((3, 2, 2), dtype=np.float32)
    assert levels_of(crop)[:, 0, 0] == pytest.approx([0.485 * 255, 0.456 * 255, 0.406 * 255])
    white = np.array([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], dtype=np.float32)
    assert levels_of(white.reshape(3, 1, 1)).ravel() == pytest.approx([255] * 3, rel=1e-6)


def test_photographs_by_hand() -> None:
    """Columns of 0 and 100 in turn, red 30 above: mean 50 + 10, deviation 50, chroma 30, every step across is 100."""
    crop = np.tile(np.array([0.0, 100.0] * 4), (3, 8, 1))
    crop[0] += 30
    found = photograph_features([crop])
    assert list(found.values()) == pytest.approx([60, 50, 30, (100 / 2) / 50])
    assert list(found) == [f"{name} of photographs" for name in ("level", "contrast", "saturation", "sharpness")]


def test_a_photograph_without_contrast_has_no_sharpness() -> None:
    """One colour: NaN instead of 0 / 0; another crop of the batch still counts."""
    flat, edge = np.full((3, 4, 4), 9.0), np.zeros((3, 4, 4))
    edge[:, :, 2:] = 80
    assert math.isnan(photograph_features([flat])["sharpness of photographs"])
    both = photograph_features([flat, edge])["sharpness of photographs"]
    assert both == photograph_features([edge])["sharpness of photographs"] == pytest.approx(80 / 3 / 2 / 40)
