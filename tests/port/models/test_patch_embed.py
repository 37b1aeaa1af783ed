from __future__ import annotations

import pytest
import torch

from port.models.patch_embed import PatchEmbed


def _sum_of_patch(patch_size: int, in_chans: int = 1) -> PatchEmbed:
    """A layer with D = 1 that adds up each patch."""
    embed = PatchEmbed(img_size=patch_size, patch_size=patch_size, in_chans=in_chans, embed_dim=1)
    assert embed.proj.bias is not None
    with torch.no_grad():
        embed.proj.weight.fill_(1.0)
        embed.proj.bias.zero_()
    return embed


def test_patches_come_row_by_row() -> None:
    """Of a 4 x 6 image numbered in reading order, the six 2 x 2 sums are in reading order too."""
    image = torch.arange(24.0).view(1, 1, 4, 6)
    # The top left patch is 0 + 1 + 6 + 7 = 14; each step right adds 8, each step down adds 48.
    assert _sum_of_patch(2)(image).flatten().tolist() == [14.0, 22.0, 30.0, 62.0, 70.0, 78.0]


def test_channels_are_mixed_in_one_token() -> None:
    """A token sees all channels of its patch."""
    image = torch.cat([torch.full((1, 1, 2, 2), value) for value in (1.0, 10.0, 100.0)], dim=1)
    assert _sum_of_patch(2, in_chans=3)(image).tolist() == [[[444.0]]]


@pytest.mark.parametrize(
    ("img_size", "patch_size", "grid"),
    [(224, 16, (14, 14)), (98, 14, (7, 7)), ((32, 48), 16, (2, 3)), (30, 16, (1, 1))],
)
def test_number_of_patches(img_size: int | tuple[int, int], patch_size: int, grid: tuple[int, int]) -> None:
    """The grid is the whole patches in each direction."""
    embed = PatchEmbed(img_size, patch_size, embed_dim=4)
    assert embed.patches_resolution == grid
    assert embed.num_patches == grid[0] * grid[1]


@pytest.mark.parametrize(("height", "width"), [(33, 32), (32, 31)])
def test_an_image_that_is_not_whole_patches_is_refused(height: int, width: int) -> None:
    """The error names the image's size and the patch size."""
    with pytest.raises(ValueError, match=rf"{height}x{width}; .* patch size 16"):
        PatchEmbed(32, 16, embed_dim=4)(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize(("img_size", "patch_size"), [(8, 16), ((32, 8), 16), (32, 0)])
def test_an_image_without_a_patch_is_refused(img_size: int | tuple[int, int], patch_size: int) -> None:
    """A model that could hold no patch is not built."""
    with pytest.raises(ValueError, match="at least one patch"):
        PatchEmbed(img_size, patch_size, embed_dim=4)
