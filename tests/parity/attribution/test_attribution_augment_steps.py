from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from parity.attribution.augment.steps import attribute_decoding, attribute_steps

VIEWS = ("global_1", "global_2", "local")


def test_steps_are_told_in_official_s_order_with_their_views() -> None:
    """One sentence per step that views part after, counted by view, with official's line."""
    parted = {"global_1": ["normalize", "blur"], "global_2": ["blur"], "local": []}
    same = {view: [(True, True)] * 4 for view in VIEWS}
    found = list(attribute_steps(parted, same, 4))
    assert [f.sentence for f in found] == [
        "views first differ after `blur`: global_1 (1 of 4 images), global_2 (1 of 4 images)",
        "views first differ after `normalize`: global_1 (1 of 4 images)",
    ]
    assert [f.id for f in found] == ["", ""]
    assert found[0].official == "dinov2/data/transforms.py:12-21"


def test_nothing_parted_is_nothing_told() -> None:
    """Equal views have no cause."""
    assert list(attribute_steps({view: [] for view in VIEWS}, {view: [] for view in VIEWS}, 4)) == []


def test_a_blur_as_declared_is_q1_by_its_shares() -> None:
    """View 1 nearly always and view 2 seldom, where official's shares are the other way round."""
    parted = {"global_1": ["blur"] * 9, "global_2": ["blur"] * 8, "local": []}
    blurred = {
        "global_1": [(False, True)] * 9 + [(False, False)],
        "global_2": [(True, False)] * 9 + [(True, True)],
        "local": [(True, True)] * 10,
    }
    (finding,) = attribute_steps(parted, blurred, 10)
    assert finding.id == "Q1"
    assert "it changes 90% of view 1 (official 0%) and 10% of view 2 (official 100%)" in finding.sentence
    (other,) = attribute_steps({**parted, "global_2": []}, {**blurred, "global_2": blurred["global_1"]}, 10)
    assert other.id == ""


def _png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


@pytest.fixture
def transparent() -> Image.Image:
    """Red that fades to nothing from left to right."""
    image = Image.new("RGBA", (16, 4), (200, 30, 60, 255))
    image.putalpha(Image.fromarray(np.tile(np.arange(16, dtype=np.uint8) * 16, (4, 1))))
    return image


def test_files_of_one_cause_are_told_together(transparent: Image.Image) -> None:
    """By name, in one sentence."""
    data = _png(transparent)
    bgr = np.array(transparent.convert("RGB"))[..., ::-1]
    found = list(attribute_decoding([("first", data, bgr), ("second", data, bgr)]))
    assert [f.sentence for f in found] == ["channels come as BGR, official's as RGB: first, second"]
    assert found[0].official == "dinov2/data/datasets/decoders.py:23"


@pytest.mark.parametrize("colour", ["white", "black"])
def test_the_ground_of_a_blend_is_named(transparent: Image.Image, colour: str) -> None:
    """Alpha on white and on black are told apart."""
    ground = Image.new("RGBA", transparent.size, colour)
    pixels = np.array(Image.alpha_composite(ground, transparent).convert("RGB"))
    (finding,) = attribute_decoding([("logo", _png(transparent), pixels)])
    assert finding.sentence == f"transparency is blended onto {colour}, official drops it: logo"


def test_pixels_of_no_known_cause_are_not_explained(transparent: Image.Image) -> None:
    """Noise is left unexplained."""
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 3)).astype(np.uint8)
    assert list(attribute_decoding([("noise", _png(transparent), pixels)])) == []
