from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_images import backbone, noise
from PIL import Image
from torch import Tensor, nn

from port.evaluation import eval_views, patch_components, pca_image, save_columns, shown


class Patches(nn.Module):
    """A backbone whose patch tokens are given."""

    patch_size = 4

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, views: Tensor, *, is_training: bool) -> dict[str, Tensor]:
        """Return the tokens, whatever the views."""
        assert is_training
        return {"x_norm_patchtokens": self.tokens.expand(len(views), -1, -1) if self.tokens.ndim == 2 else self.tokens}


def colours_of(tokens: Tensor, n: int = 1, side: int = 16) -> np.ndarray:
    """Return the colours of given tokens, uint8 (n, rows, columns, 3)."""
    return np.stack([np.asarray(p) for p in patch_components(Patches(tokens), torch.zeros(n, 3, side, side))])


def test_the_strongest_component_is_red() -> None:
    """Tokens along three axes: the widest spread becomes red, the next green, then blue, in the patches' order."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(16, 3, generator=generator)
    tokens = torch.zeros(16, 5)
    tokens[:, 4], tokens[:, 1], tokens[:, 2] = 100 * scores[:, 0], 10 * scores[:, 1], scores[:, 2]
    found = colours_of(tokens)[0].reshape(16, 3).astype(float)
    for channel in range(3):
        correlation = np.corrcoef(found[:, channel], scores[:, channel].numpy())[0, 1]
        assert correlation > 0.9, channel


def test_colours_use_the_whole_range_and_are_common_to_all_images() -> None:
    """Components are of all patches together: equal tokens have equal colours in two images."""
    tokens = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(1))
    tokens[1, 3] = tokens[0, 7]
    found = colours_of(tokens, n=2)
    assert found.shape == (2, 4, 4, 3)
    assert (found.min(), found.max()) == (0, 255)
    assert found[1].reshape(16, 3)[3].tolist() == found[0].reshape(16, 3)[7].tolist()


def test_turned_features_give_the_same_picture() -> None:
    """Up to the sign of a component, which is arbitrary: each channel stays or is inverted."""
    tokens = torch.randn(16, 6, generator=torch.Generator().manual_seed(2)) * torch.tensor([9.0, 6, 4, 1, 1, 1])
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))
    straight, turned = (colours_of(t).astype(int) for t in (tokens, tokens @ rotation))
    for channel in range(3):
        a, b = straight[..., channel], turned[..., channel]
        assert min(abs(a - b).max(), abs(255 - a - b).max()) <= 1


def test_equal_tokens_are_no_division_by_zero() -> None:
    """A collapsed network gives one colour."""
    assert len(np.unique(colours_of(torch.ones(16, 4)).reshape(-1, 3), axis=0)) == 1


def test_the_network_is_as_before_and_the_picture_repeats() -> None:
    """No drop path, no random numbers, modes restored."""
    network = backbone()
    views = eval_views(network, [noise(0), noise(1)], 16)
    state = torch.get_rng_state()
    first, second = (patch_components(network, views) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert [p.tobytes() for p in first] == [p.tobytes() for p in second]
    assert [p.size for p in first] == [(4, 4)] * 2


def test_views_are_shown_as_they_were() -> None:
    """An image of the crop's size comes back byte for byte."""
    image = noise(0, 16, 16)
    (found,) = shown(eval_views(backbone(), [image], 16, 16))
    assert found.tobytes() == image.tobytes()


def test_a_picture_of_images_and_components(tmp_path: Path) -> None:
    """Two columns and two rows of tiles of 160 pixels, the image on the left."""
    path = tmp_path / "pca.png"
    images = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    pca_image(backbone(), images, path, crop_size=16)
    with Image.open(path) as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        assert sheet.size == (8 + 2 * 168, 28 + 2 * 168)
        assert sheet.getpixel((88, 108)) == (200, 0, 0)
        assert sheet.getpixel((88, 276)) == (0, 0, 200)
        assert sheet.getpixel((2, 2)) == (255, 255, 255)


def test_columns_are_titled_and_patches_stay_squares(tmp_path: Path) -> None:
    """Four pixels become four squares of 80; a title leaves its marks above."""
    small = Image.fromarray(np.array([[[0, 0, 0], [255, 0, 0]], [[0, 255, 0], [0, 0, 255]]], np.uint8))
    save_columns({"before": [small], "after": [small]}, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    for left in (8, 176):
        tile = pixels[28:188, left : left + 160]
        for row in range(2):
            for column in range(2):
                square = tile[80 * row : 80 * row + 80, 80 * column : 80 * column + 80].reshape(-1, 3)
                assert (square == np.asarray(small)[row, column]).all()
        assert (pixels[:28, left : left + 160] < 128).any()


def test_large_pictures_are_made_smaller(tmp_path: Path) -> None:
    """Smoothly: alternating columns of black and white become grey."""
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    save_columns({"stripes": [Image.fromarray(stripes)]}, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        middle = np.asarray(sheet)[60:150, 40:130]
    assert abs(middle.astype(float).mean() - 127.5) < 3
    assert middle.std() < 40


@pytest.mark.parametrize("columns", [{}, {"a": []}, {"a": [noise(0)], "b": []}])
def test_columns_that_do_not_fit_are_refused(columns: dict[str, list[Image.Image]], tmp_path: Path) -> None:
    """Nothing to show, or columns of different length."""
    with pytest.raises(ValueError, match="expected at least one, of equal length above 0"):
        save_columns(columns, tmp_path / "sheet.png")


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    """No image, a size of no whole patches, a folder that is not there."""
    with pytest.raises(ValueError, match="no image to show"):
        pca_image(backbone(), [], tmp_path / "a.png", crop_size=16)
    with pytest.raises(ValueError, match="patch size 4"):
        pca_image(backbone(), [noise(0)], tmp_path / "a.png", crop_size=15)
    with pytest.raises(FileNotFoundError):
        pca_image(backbone(), [noise(0)], tmp_path / "none" / "a.png", crop_size=16)
