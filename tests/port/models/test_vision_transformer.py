from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_backbone import DOUBLE, images, tiny_backbone
from torch import Tensor, nn

from port.models import BlockChunk, DinoVisionTransformer
from port.models.block import Block
from port.models.chunks import chunk_blocks, flat_blocks
from port.models.position import resize_positions

BLOCK = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]


@pytest.mark.parametrize(
    ("changes", "first", "blocks"),
    [
        ({}, ["cls_token", "pos_embed", "mask_token"], ["blocks.0", "blocks.1"]),
        (
            {"num_register_tokens": 2, "block_chunks": 2},
            ["cls_token", "pos_embed", "register_tokens", "mask_token"],
            ["blocks.0.0", "blocks.1.1"],
        ),
        ({"block_chunks": 1}, ["cls_token", "pos_embed", "mask_token"], ["blocks.0.0", "blocks.0.1"]),
    ],
)
def test_names_of_parameters(changes: dict[str, int], first: list[str], blocks: list[str]) -> None:
    """Official's names in official's order."""
    layers = ["patch_embed.proj", *(f"{block}.{layer}" for block in blocks for layer in BLOCK), "norm"]
    expected = first + [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert [name for name, _ in tiny_backbone(**changes).named_parameters()] == expected


@pytest.mark.parametrize(
    ("depth", "chunks", "indices"),
    # Quirk Q38: five blocks in three chunks make five chunks of one.
    [(4, 2, [[0, 1], [2, 3]]), (5, 2, [[0, 1], [2, 3], [4]]), (5, 3, [[0], [1], [2], [3], [4]]), (3, 1, [[0, 1, 2]])],
)
def test_chunks_keep_the_index_of_a_block(depth: int, chunks: int, indices: list[list[int]]) -> None:
    """Chunk C holds identities for earlier blocks and then its own: blocks.C.L has L counted from the start."""
    blocks = [Block(4, 1) for _ in range(depth)]
    chunked = chunk_blocks(blocks, chunks)
    assert all(isinstance(chunk, BlockChunk) for chunk in chunked)
    own = [[i for i, block in enumerate(chunk.children()) if isinstance(block, Block)] for chunk in chunked]
    assert own == indices
    assert flat_blocks(chunked) == blocks
    assert flat_blocks(nn.ModuleList(blocks)) == blocks


@pytest.mark.parametrize("chunks", [-1, 3])
def test_more_chunks_than_blocks_are_refused(chunks: int) -> None:
    """The error names the number and its range."""
    with pytest.raises(ValueError, match=f"block_chunks is {chunks}; expected 0 .flat. to the depth, 2"):
        tiny_backbone(block_chunks=chunks)


def test_chunks_do_not_change_the_result() -> None:
    """A chunked model computes what the flat one with the same weights computes."""
    flat, chunked = tiny_backbone(), tiny_backbone(block_chunks=2)
    x = images(3)
    assert torch.equal(flat(x), chunked(x))
    pairs = zip(flat([x], is_training=True), chunked([x], is_training=True), strict=True)
    assert all(torch.equal(a["x_prenorm"], b["x_prenorm"]) for a, b in pairs)


def test_initial_values_replay_the_random_numbers() -> None:
    """Defaults of all layers in order of registration, then positions, CLS, registers and linears."""
    torch.manual_seed(5)
    model = DinoVisionTransformer(8, 4, 3, 8, depth=1, num_heads=2, num_register_tokens=2, block_chunks=0)
    torch.manual_seed(5)
    conv = nn.Conv2d(3, 8, 4, 4)
    assert conv.bias is not None
    linears = [nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 32), nn.Linear(32, 8)]
    pos_embed = nn.init.trunc_normal_(torch.zeros(1, 5, 8), std=0.02)
    cls_token = nn.init.normal_(torch.zeros(1, 1, 8), std=1e-6)
    register_tokens = nn.init.normal_(torch.zeros(1, 2, 8), std=1e-6)
    for linear in linears:
        nn.init.trunc_normal_(linear.weight, std=0.02)
    state = model.state_dict()
    names = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    expected = {f"blocks.0.{name}.weight": linear.weight for name, linear in zip(names, linears, strict=True)}
    expected |= {"patch_embed.proj.weight": conv.weight, "patch_embed.proj.bias": conv.bias}
    expected |= {"pos_embed": pos_embed, "cls_token": cls_token, "register_tokens": register_tokens}
    expected |= {f"blocks.0.{name}.bias": torch.zeros_like(state[f"blocks.0.{name}.bias"]) for name in names}
    expected["mask_token"] = torch.zeros(1, 8)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("registers", [0, 3])
def test_tokens_are_cls_registers_patches(registers: int) -> None:
    """Positions are added to CLS and patches; registers come between them without one."""
    model = tiny_backbone(num_register_tokens=registers)
    x = images(2)
    tokens = model.prepare_tokens_with_masks(x)
    assert tokens.shape == (2, 1 + registers + 16, 8)
    assert torch.equal(tokens[1, 0], model.cls_token[0, 0] + model.pos_embed[0, 0])
    assert torch.equal(tokens[:, 1 + registers :], model.patch_embed(x) + model.pos_embed[:, 1:])
    if registers:
        assert model.register_tokens is not None
        assert torch.equal(tokens[1, 1 : 1 + registers], model.register_tokens[0])


def test_the_mask_token_replaces_masked_patches() -> None:
    """A masked place holds mask token plus position, whatever the image shows there."""
    model = tiny_backbone()
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[0, 3] = masks[1, 7] = True
    tokens, plain = model.prepare_tokens_with_masks(images(2), masks), model.prepare_tokens_with_masks(images(2))
    assert torch.equal(tokens[1, 8], model.mask_token[0] + model.pos_embed[0, 8])
    assert torch.equal((tokens != plain).any(dim=-1)[:, 1:], masks)


@pytest.mark.parametrize("registers", [0, 3])
def test_features_name_the_parts_of_the_normed_sequence(registers: int) -> None:
    """The parts, joined, are the norm of x_prenorm; masks come back as they were given."""
    model = tiny_backbone(num_register_tokens=registers)
    masks = torch.rand(2, 16) < 0.5
    features = model(images(2), masks, is_training=True)
    assert list(features) == ["x_norm_clstoken", "x_norm_regtokens", "x_norm_patchtokens", "x_prenorm", "masks"]
    assert features["x_norm_regtokens"].shape == (2, registers, 8)
    parts = [features["x_norm_clstoken"].unsqueeze(1), features["x_norm_regtokens"], features["x_norm_patchtokens"]]
    assert torch.equal(torch.cat(parts, dim=1), model.norm(features["x_prenorm"]))
    assert features["masks"] is masks
    assert torch.equal(model(images(2), masks), features["x_norm_clstoken"])


def test_silent_blocks_pass_the_tokens_through() -> None:
    """With both branches of all blocks at zero, x_prenorm is the tokens that went in."""
    model = tiny_backbone()
    for name, parameter in model.named_parameters():
        if "attn.proj" in name or "mlp.fc2" in name:
            nn.init.zeros_(parameter)
    x = images(2)
    assert torch.equal(model(x, is_training=True)["x_prenorm"], model.prepare_tokens_with_masks(x))


@pytest.mark.parametrize("changes", [{}, {"num_register_tokens": 2, "block_chunks": 2, "init_values": 0.1}])
def test_a_list_equals_separate_calls_in_evaluation(changes: dict[str, Any]) -> None:
    """Two crop sizes, with masks on the first, give what each batch gives alone."""
    model = tiny_backbone(**changes, drop_path_rate=0.5).eval()
    crops, masks = [images(2), images(5, 8)], [torch.rand(2, 16) < 0.5, None]
    for got, x, mask in zip(model(crops, masks, is_training=True), crops, masks, strict=True):
        alone = model(x, mask, is_training=True)
        torch.testing.assert_close(got["x_prenorm"], alone["x_prenorm"], rtol=1e-12, atol=1e-13)
        assert got["masks"] is mask


def test_a_list_without_masks_is_unmasked() -> None:
    """No masks mean None for each batch."""
    model = tiny_backbone()
    crops = [images(2), images(3, 8)]
    for a, b in zip(model(crops, is_training=True), model(crops, [None, None], is_training=True), strict=True):
        assert torch.equal(a["x_prenorm"], b["x_prenorm"])
        assert a["masks"] is None


def test_one_crop_does_not_change_another() -> None:
    """While training with drop path, a changed local crop leaves all global ones as they were."""
    model = tiny_backbone(drop_path_rate=0.5, drop_path_uniform=True)
    outputs = []
    for shift in (0.0, 1.0):
        local = images(4, 8)
        local[2] += shift
        torch.manual_seed(4)
        outputs.append([f["x_prenorm"] for f in model([images(2), local], is_training=True)])
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert (outputs[0][1] != outputs[1][1]).flatten(1).any(dim=1).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("rate", "uniform", "rates"),
    [(0.4, True, [0.4] * 5), (0.4, False, [0.0, 0.1, 0.2, 0.3, 0.4]), (0.0, False, [0.0] * 5)],
)
def test_drop_path_rates(rate: float, uniform: bool, rates: list[float]) -> None:
    """Uniform, or growing linearly from 0 to the rate."""
    model = tiny_backbone(depth=5, drop_path_rate=rate, drop_path_uniform=uniform)
    got = [block.sample_drop_ratio for block in flat_blocks(model.blocks) if isinstance(block, Block)]
    assert got == pytest.approx(rates, abs=1e-12)


def test_positions_of_the_learned_grid_are_the_parameter() -> None:
    """A square image of the learned size is not resized at all."""
    model = tiny_backbone()
    assert model.interpolate_pos_encoding(torch.zeros(1, 17, 8), 16, 16) is model.pos_embed


@pytest.mark.parametrize(("offset", "antialias"), [(0.0, False), (0.0, True), (0.1, False), (0.1, True)])
@pytest.mark.parametrize("grid", [(2, 2), (3, 5), (7, 4), (1, 16)])
def test_constant_positions_stay_constant(offset: float, antialias: bool, grid: tuple[int, int]) -> None:
    """Weights of a bicubic kernel add up to one at any size; CLS keeps its own position."""
    pos_embed = torch.cat([torch.full((1, 1, 2), 5.0), torch.tensor([1.0, -2.0]).expand(1, 16, 2)], dim=1)
    resized = resize_positions(pos_embed, grid, antialias=antialias, offset=offset)
    assert resized.shape == (1, 1 + grid[0] * grid[1], 2)
    assert resized[0, 0].tolist() == [5.0, 5.0]
    torch.testing.assert_close(resized[0, 1:], torch.tensor([1.0, -2.0]).expand(grid[0] * grid[1], 2))


@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_to_the_same_grid_without_offset_is_the_identity(antialias: bool) -> None:
    """A bicubic kernel interpolates: it returns the samples at the samples."""
    pos_embed = torch.randn(1, 17, 8)
    torch.testing.assert_close(resize_positions(pos_embed, (4, 4), antialias=antialias, offset=0.0), pos_embed)


def test_rows_are_the_first_axis() -> None:
    """Positions that count rows still grow down the grid, and are equal along a row, on a 2 x 8 grid."""
    rows = torch.arange(4.0).repeat_interleave(4).view(1, 16, 1)
    pos_embed = torch.cat([torch.zeros(1, 1, 1), rows], dim=1)
    grid = resize_positions(pos_embed, (2, 8), antialias=False, offset=0.0)[0, 1:, 0].view(2, 8)
    assert bool((grid[1] > grid[0] + 1).all())
    torch.testing.assert_close(grid, grid[:, :1].expand(2, 8))


def test_the_offset_moves_the_sampling_points() -> None:
    """Doubling 2 to 4 with offset 0.1 samples at (i + 0.5) * 2 / 4.1 - 0.5, by hand at the second pixel."""
    a, t = -0.75, 1.5 * 2 / 4.1 - 0.5  # the kernel's constant in torch, and the place between pixels 0 and 1
    near = (a + 2) * (1 - t) ** 3 - (a + 3) * (1 - t) ** 2 + 1
    # The last pixel (1) repeats beyond the border, and so has the weight of both pixels right of the place.
    far = a * (2 - t) ** 3 - 5 * a * (2 - t) ** 2 + 8 * a * (2 - t) - 4 * a
    pos_embed = torch.tensor([9.0, 0.0, 1.0, 0.0, 1.0]).view(1, 5, 1)
    resized = resize_positions(pos_embed, (4, 4), antialias=False, offset=0.1)
    assert resized[0, 2, 0].item() == pytest.approx(near + far, abs=1e-5)


def test_an_image_of_as_many_patches_in_another_shape_is_resized() -> None:
    """2 x 8 patches are as many as 4 x 4, but their positions are not the parameter's."""
    model = tiny_backbone()
    positions = model.interpolate_pos_encoding(torch.zeros(1, 17, 8), 8, 32)
    assert positions.shape == model.pos_embed.shape
    assert not torch.equal(positions, model.pos_embed)


def test_positions_have_the_dtype_of_the_tokens() -> None:
    """Resizing is done in float32 and cast back."""
    assert (
        tiny_backbone().interpolate_pos_encoding(torch.zeros(1, 5, 8, dtype=torch.bfloat16), 8, 8).dtype
        == torch.bfloat16
    )
    assert (
        resize_positions(torch.zeros(1, 5, 2, dtype=DOUBLE), (1, 1), antialias=False, offset=0).dtype == torch.float32
    )


def test_positions_that_cannot_be_resized_are_refused() -> None:
    """Learned positions must be square, and the offset must not add a patch."""
    with pytest.raises(ValueError, match=r"8 learned positions are not a square grid"):
        tiny_backbone(img_size=(8, 16))(images(1, 8, 8))
    with pytest.raises(ValueError, match=r"interpolate_offset 1.5 resizes positions to \(3, 3\)"):
        tiny_backbone(interpolate_offset=1.5)(images(1, 8))


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
def test_intermediate_layers_are_the_blocks_outputs(chunks: int) -> None:
    """Hooks on the blocks see what is returned, last n or by index, before the norm."""
    model = tiny_backbone(depth=3, block_chunks=chunks, num_register_tokens=2).eval()
    seen: list[Tensor] = []
    for block in flat_blocks(model.blocks):
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    x = images(2)
    last_two: Any = model.get_intermediate_layers(x, 2, norm=False)
    assert [torch.equal(got, out[:, 3:]) for got, out in zip(last_two, seen[1:], strict=True)] == [True, True]
    pairs: Any = model.get_intermediate_layers(x, [0, 2], return_class_token=True)
    for (patches, cls_token), out in zip(pairs, (seen[0], seen[2]), strict=True):
        assert torch.equal(patches, model.norm(out)[:, 3:])
        assert torch.equal(cls_token, model.norm(out)[:, 0])


def test_intermediate_layers_can_be_maps() -> None:
    """Reshaped, the token of row r and column c is at [r, c] of a map of 2 x 3."""
    model = tiny_backbone()
    x = images(2, 8, 12)
    (flat,), (grid,) = model.get_intermediate_layers(x), model.get_intermediate_layers(x, reshape=True)
    assert isinstance(flat, Tensor)
    assert isinstance(grid, Tensor)
    assert grid.shape == (2, 8, 2, 3)
    assert torch.equal(grid[:, :, 1, 0], flat[:, 3])


@pytest.mark.parametrize("n", [3, [0, 2], [-1]])
def test_blocks_that_do_not_exist_are_refused(n: int | list[int]) -> None:
    """The error names what was asked and how many blocks there are."""
    with pytest.raises(ValueError, match="at most 2 blocks"):
        tiny_backbone().get_intermediate_layers(images(1), n)


def test_wrong_forms_of_input_are_refused() -> None:
    """A list needs is_training and a list of as many masks; a tensor needs a tensor of its own shape."""
    model, x, masks = tiny_backbone(), images(2), torch.zeros(2, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match="is_training=True"):
        model([x])
    with pytest.raises(ValueError, match="1 batches but 2 masks"):
        model([x], [masks, None], is_training=True)
    with pytest.raises(TypeError, match="needs a list of masks"):
        model([x], masks, is_training=True)
    with pytest.raises(TypeError, match="needs one tensor of masks"):
        model(x, [masks])
    with pytest.raises(ValueError, match=r"masks are \(2, 15\); the images have patches \(2, 16\)"):
        model(x, masks[:, :15])
    with pytest.raises(ValueError, match="num_register_tokens is -1"):
        tiny_backbone(num_register_tokens=-1)


def test_every_parameter_gets_a_gradient_from_a_training_call() -> None:
    """With masks and two crop sizes, nothing is left out, mask token and registers included."""
    model = tiny_backbone(num_register_tokens=2, init_values=0.1, drop_path_rate=0.3, block_chunks=2)
    masks = torch.arange(16).expand(2, 16) % 3 == 0
    sum(
        f["x_prenorm"].square().sum() for f in model([images(2), images(4, 8)], [masks, None], is_training=True)
    ).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None and name[:4] != "norm"] == []


def test_a_model_can_be_built_on_the_meta_device() -> None:
    """Names and shapes are there, memory and CPU random numbers are not used."""
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = DinoVisionTransformer(16, 4, embed_dim=8, depth=2, num_heads=2, init_values=0.1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.is_meta for p in model.parameters())
    restored = model.to_empty(device="cpu")
    assert restored.pos_embed.shape == (1, 17, 8)
