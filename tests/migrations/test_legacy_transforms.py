from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torchvision import transforms

from migrations.legacy import LegacyStack
from migrations.legacy.transforms import TMEDinoTransforms, make_views
from port.config import load_recipe


def image(size: int = 80) -> Image.Image:
    """Coloured noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


def config(n_local: int = 3) -> DictConfig:
    """Global crops of 64 pixels, local ones of 32."""
    return load_recipe(
        "vitl16_short",
        ["crops.global_crops_size=64", "crops.local_crops_size=32", f"crops.local_crops_number={n_local}"],
    )


def views() -> TMEDinoTransforms:
    """Three local views and crops of the same sizes."""
    return TMEDinoTransforms((0.32, 1.0), (0.05, 0.32), 3, global_crops_size=64, local_crops_size=32)


def steps(transform: object, kind: type) -> list[object]:
    """The steps of a composition that are of a kind."""
    assert isinstance(transform, transforms.Compose)
    return [step for step in transform.transforms if isinstance(step, kind)]


def test_an_image_becomes_two_plus_n_plus_one_views() -> None:
    """Two global views, the local ones, and the third global one last."""
    torch.manual_seed(0)
    assert [tuple(view.shape[1:]) for view in views()(image())] == [(64, 64)] * 2 + [(32, 32)] * 3 + [(64, 64)]


@pytest.mark.parametrize("n_local", [0, 3])
def test_make_views_sorts_them_for_collate(n_local: int) -> None:
    """Three global crops, the iBOT view last, and the local ones."""
    torch.manual_seed(0)
    made = make_views(image(), config(n_local))
    assert [tuple(view.shape) for view in made["global_crops"]] == [(3, 64, 64)] * 3
    assert [tuple(view.shape) for view in made["local_crops"]] == [(3, 32, 32)] * n_local


def test_make_views_keeps_the_third_view_third() -> None:
    """The same draws give the list's last view as the third global crop."""
    torch.manual_seed(7)
    listed = views()(image())
    torch.manual_seed(7)
    made = LegacyStack().augment(image(), config(), 7)
    assert torch.equal(made["global_crops"][2], listed[-1])
    assert torch.equal(made["global_crops"][1], listed[1])
    assert torch.equal(made["local_crops"][0], listed[2])


def test_the_third_view_is_an_augmentation_of_its_own() -> None:
    """It differs from both others of the same image."""
    torch.manual_seed(0)
    first, second, third = make_views(image(), config())["global_crops"]
    assert not torch.equal(third, first)
    assert not torch.equal(third, second)


def test_only_the_third_view_is_flipped_upside_down() -> None:
    """A vertical flip in three draws of ten, and none in the other views."""
    made = views()
    flips = {
        name: steps(getattr(made, name), transforms.RandomVerticalFlip)
        for name in vars(made)
        if name.startswith(("global", "local"))
    }
    assert {name: len(found) for name, found in flips.items()} == {
        "global_1": 0, "global_2": 0, "global_3": 1, "local": 0,
    }  # fmt: skip
    assert flips["global_3"][0].p == 0.3  # type: ignore[attr-defined]  # torchvision is untyped


def test_blur_of_the_first_two_views_changes_no_pixel() -> None:
    """A kernel of 3 at sigma 0.15 at most rounds away on 8-bit images."""
    torch.manual_seed(0)
    pixels = np.asarray(image())
    for transform in (views().global_1, views().global_2):
        (blur,) = steps(transform, transforms.GaussianBlur)
        assert callable(blur)
        assert np.array_equal(np.asarray(blur(image())), pixels)


def test_solarize_is_lower_and_more_frequent_than_official_s() -> None:
    """Above 64 in half of the draws, where official solarizes above 128 in a fifth."""
    (solarize,) = steps(views().global_2, transforms.RandomSolarize)
    assert (solarize.threshold, solarize.p) == (64, 0.5)  # type: ignore[attr-defined]  # torchvision is untyped


def test_nothing_is_turned_gray() -> None:
    """The listing has no grayscale, which official applies to a fifth of every crop."""
    made = views()
    found = [
        step
        for transform in (made.global_1, made.global_2, made.global_3, made.local)
        for step in steps(transform, transforms.RandomGrayscale)
    ]
    assert found == []


def test_views_are_normalised_as_official_s() -> None:
    """A black image becomes minus mean over standard deviation in each channel, whatever is drawn."""
    torch.manual_seed(1)
    black = Image.new("RGB", (80, 80))
    local = views().local(black)
    expected = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(local.amax(dim=(1, 2)), expected)
    torch.testing.assert_close(local.amin(dim=(1, 2)), expected)
