from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from weights_sources import images, make_backbone

from parity.adapters.official import OfficialStack
from port.weights import fit_positions, load_backbone


def _positions(side: int, width: int = 6) -> Tensor:
    return torch.randn(1, 1 + side**2, width, generator=torch.Generator().manual_seed(side))


@pytest.fixture
def official_positions(official_stack: OfficialStack) -> Callable[[Tensor, int], Tensor]:
    """Official's positions for images of `side` patches of one pixel, from learned ones."""

    def run(learned: Tensor, side: int) -> Tensor:
        model = official_stack._reference.module("models.vision_transformer").DinoVisionTransformer(
            img_size=37, patch_size=1, embed_dim=6, depth=1, num_heads=1, block_chunks=0
        )
        model.pos_embed = torch.nn.Parameter(learned)
        with torch.no_grad():
            resized: Tensor = model.interpolate_pos_encoding(torch.zeros(1, 1 + side**2, 6), side, side)
        return resized

    return run


@pytest.mark.parametrize("side", [4, 7, 16, 36, 38, 60])
def test_positions_are_official_s(official_positions: Callable[[Tensor, int], Tensor], side: int) -> None:
    """What official interpolates for such an image, bit for bit, from the released 37×37 grid."""
    learned = _positions(37)
    ours = fit_positions(learned, (side, side), antialias=False, offset=0.1)
    assert torch.equal(ours, official_positions(learned, side))


def test_the_grid_that_was_learned_stays() -> None:
    """The very tensor, whatever the options."""
    learned = _positions(5)
    assert fit_positions(learned, (5, 5), antialias=True, offset=0.1) is learned


def test_the_cls_token_s_position_stays() -> None:
    """It is no patch's."""
    learned = _positions(6)
    resized = fit_positions(learned, (3, 4), antialias=False, offset=0.0)
    assert resized.shape == (1, 13, 6)
    assert torch.equal(resized[:, 0], learned[:, 0])


@pytest.mark.parametrize("antialias", [True, False])
def test_a_constant_grid_stays_constant(antialias: bool) -> None:
    """Bicubic weights add up to 1."""
    resized = fit_positions(torch.full((1, 50, 3), 0.7), (4, 9), antialias=antialias, offset=0.0)
    torch.testing.assert_close(resized, torch.full((1, 37, 3), 0.7))


def test_a_ramp_keeps_its_direction() -> None:
    """Halfway between rows, the kernel's weights are -3/32, 19/32, 19/32 and -3/32; the border's row is repeated."""
    rows = torch.arange(8.0).repeat_interleave(8).reshape(1, 64, 1)
    resized = fit_positions(torch.cat((torch.zeros(1, 1, 1), rows), dim=1), (4, 4), antialias=False, offset=0.0)
    grid = resized[0, 1:, 0].reshape(4, 4)
    assert torch.equal(grid, grid[:, :1].expand(4, 4))
    torch.testing.assert_close(grid[:, 0], torch.tensor([13 / 32, 2.5, 4.5, 7 - 13 / 32]))


def test_half_precision_stays() -> None:
    """The interpolation itself is in float32."""
    learned = _positions(8)
    resized = fit_positions(learned.half(), (4, 4), antialias=False, offset=0.1)
    assert resized.dtype == torch.float16
    expected = fit_positions(learned.half().float(), (4, 4), antialias=False, offset=0.1)
    assert torch.equal(resized, expected.half())


def test_positions_that_are_no_square_are_an_error() -> None:
    """Their rows are not known."""
    with pytest.raises(ValueError, match="7 learned positions are not a square grid"):
        fit_positions(torch.ones(1, 8, 4), (4, 4), antialias=False, offset=0.0)


def test_released_weights_run_as_in_official(official_stack: OfficialStack, tmp_path: Path) -> None:
    """A file of official's own model, 37×37 and chunked, in a run at another size: the same tokens."""
    layers = official_stack._reference.module("layers")
    official = official_stack._reference.module("models.vision_transformer").DinoVisionTransformer(
        img_size=148,
        patch_size=4,
        embed_dim=48,
        depth=3,
        num_heads=3,
        init_values=1.0,
        block_chunks=2,
        block_fn=partial(layers.NestedTensorBlock, attn_class=layers.MemEffAttention),
    )
    file = tmp_path / "released.pth"
    torch.save({"teacher": {f"backbone.{k}": v for k, v in official.state_dict().items()}}, file)
    backbone = make_backbone(img_size=32)
    report = load_backbone(backbone, file)
    assert report.resized_from == (37, 37)
    with torch.no_grad():
        ours = backbone.forward_features(images(32))
        theirs = official.eval().forward_features(images(32))
    assert torch.equal(ours["x_norm_clstoken"], theirs["x_norm_clstoken"])
    assert torch.equal(ours["x_norm_patchtokens"], theirs["x_norm_patchtokens"])
