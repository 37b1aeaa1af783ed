from __future__ import annotations

import pytest
import torch
from torch import nn

from port.config import default_config
from port.models import ARCHITECTURES, DINOHead, build_model
from port.optim import (
    adamw_kernel,
    build_optimizer,
    describe_groups,
    fuse_params_groups,
    get_params_groups_with_decay,
    get_vit_lr_decay_rate,
)


class Block(nn.Module):
    """The names that matter in a transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(2)
        self.fc = nn.Linear(2, 2)
        self.gamma = nn.Parameter(torch.ones(2))


class Backbone(nn.Module):
    """Two blocks and the embeddings; frozen parameters on demand."""

    def __init__(self, chunked: bool = False) -> None:
        super().__init__()
        self.n_blocks, self.chunked_blocks = 2, chunked
        self.cls_token = nn.Parameter(torch.zeros(1))
        self.register_tokens = nn.Parameter(torch.zeros(1))
        self.patch_embed = nn.Linear(2, 2)
        blocks = [Block(), Block()]
        chunks = [nn.ModuleList([blocks[0]]), nn.ModuleList([nn.Identity(), blocks[1]])]
        self.blocks = nn.ModuleList(chunks if chunked else blocks)
        self.norm = nn.LayerNorm(2)


class Wrapper(nn.Module):
    """What DDP or torch.compile put around a module, as far as names go."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, inner)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("pos_embed", 0),
        ("cls_token", 0),
        ("mask_token", 0),
        ("register_tokens", 0),
        ("patch_embed.proj.weight", 0),
        ("blocks.0.norm1.weight", 1),
        ("blocks.23.mlp.fc1.bias", 24),
        ("backbone.blocks.7.ls1.gamma", 8),
        ("norm.weight", 25),
        ("blocks.3.residual.weight", 25),
    ],
)
def test_layers_are_counted_from_the_embeddings(name: str, layer: int) -> None:
    """The rate is decay ** (24 + 1 - layer) for ViT-L: 0.9 ** 25 at the embeddings, registers included."""
    assert get_vit_lr_decay_rate(name, 0.9, 24, force_is_backbone=True) == 0.9 ** (25 - layer)


def test_a_head_is_not_decayed() -> None:
    """A name that is no backbone's has multiplier 1, even if it says blocks."""
    assert get_vit_lr_decay_rate("mlp.0.weight", 0.9, 24) == 1.0
    assert get_vit_lr_decay_rate("blocks.0.weight", 0.9, 24) == 1.0
    assert get_vit_lr_decay_rate("mlp.0.weight", 0.9, 0) == 1.0


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "module._orig_mod."])
def test_wrapper_prefixes_change_nothing(prefix: str) -> None:
    """Q37: official reads chunk 0 of `_orig_mod.blocks.0.5.…` as the block and gives layer 1, not 6."""
    name = f"{prefix}blocks.0.5.attn.qkv.weight"
    assert get_vit_lr_decay_rate(name, 0.9, 24, True, chunked_blocks=True) == 0.9 ** (25 - 6)


def test_wrappers_inside_a_name_change_nothing() -> None:
    """Per-block compilation or FSDP puts the wrapper after the index."""
    name = "blocks.5._orig_mod._fsdp_wrapped_module.attn.qkv.weight"
    assert get_vit_lr_decay_rate(name, 0.9, 24, True) == 0.9 ** (25 - 6)


@pytest.mark.parametrize("chunked", [False, True])
def test_groups_of_a_backbone(chunked: bool) -> None:
    """Every parameter of two blocks, worked out by hand: (lr multiplier, wd multiplier)."""
    groups = get_params_groups_with_decay(Backbone(chunked), lr_decay_rate=0.5, patch_embed_lr_mult=0.2)
    blocks = ("blocks.0.0", "blocks.1.1") if chunked else ("blocks.0", "blocks.1")
    expected = {
        "cls_token": (0.125, 1.0),
        "register_tokens": (0.125, 1.0),
        "patch_embed.weight": (0.125 * 0.2, 1.0),
        "patch_embed.bias": (0.125 * 0.2, 0.0),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
    }
    for block, lr in zip(blocks, (0.25, 0.5), strict=True):
        expected |= {
            f"{block}.gamma": (lr, 0.0),
            f"{block}.norm1.weight": (lr, 0.0),
            f"{block}.norm1.bias": (lr, 0.0),
            f"{block}.fc.weight": (lr, 1.0),
            f"{block}.fc.bias": (lr, 0.0),
        }
    assert {g["name"]: (g["lr_multiplier"], g["wd_multiplier"]) for g in groups} == expected
    assert not any(g["is_last_layer"] for g in groups)


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_a_wrapped_backbone_has_the_same_groups(wrapper: str) -> None:
    """DDP hides n_blocks; the groups are those of the module inside."""
    bare = Backbone(chunked=True)
    expected = get_params_groups_with_decay(bare, 0.9, 0.2)
    found = get_params_groups_with_decay(Wrapper(bare, wrapper), 0.9, 0.2)
    assert found == expected


def test_a_module_that_holds_a_backbone() -> None:
    """Official's last branch: blocks are counted in `.backbone`."""
    holder = Wrapper(Backbone(), "backbone")
    rates = {g["name"]: g["lr_multiplier"] for g in get_params_groups_with_decay(holder, 0.5)}
    assert rates["backbone.blocks.1.fc.weight"] == 0.5
    assert rates["backbone.cls_token"] == 0.125


def test_blocks_without_a_count_are_counted() -> None:
    """A plain ViT with `blocks` and no `n_blocks`."""
    model = Backbone()
    del model.n_blocks
    rates = {g["name"]: g["lr_multiplier"] for g in get_params_groups_with_decay(model, 0.5)}
    assert rates["blocks.0.fc.weight"] == 0.25


def test_groups_of_a_head() -> None:
    """A head: no layer-wise decay; weight_g of the last layer is decayed (Q9)."""
    head = DINOHead(in_dim=4, out_dim=8, hidden_dim=4, bottleneck_dim=4, nlayers=2)
    groups = {g["name"]: g for g in get_params_groups_with_decay(head, 0.9, 0.2)}
    assert {g["lr_multiplier"] for g in groups.values()} == {1.0}
    assert {name for name, g in groups.items() if g["is_last_layer"]} == {
        "last_layer.weight_g",
        "last_layer.weight_v",
    }
    assert {name for name, g in groups.items() if g["wd_multiplier"] == 0} == {"mlp.0.bias", "mlp.2.bias"}


def test_frozen_parameters_have_no_group() -> None:
    """A parameter that needs no gradient is left out."""
    model = Backbone()
    model.patch_embed.requires_grad_(False)
    assert not any("patch_embed" in g["name"] for g in get_params_groups_with_decay(model))


def test_fusing_keeps_every_parameter_once() -> None:
    """Groups that agree are joined, in order of first appearance."""
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    constants = {"lr_multiplier": 0.5, "wd_multiplier": 1.0, "is_last_layer": False}
    fused = fuse_params_groups(
        [
            {"params": a, "name": "a", **constants},
            {"params": b, "name": "b", **constants, "is_last_layer": True},
            {"params": c, "name": "c", **constants},
        ]
    )
    assert [[id(p) for p in group["params"]] for group in fused] == [[id(a), id(c)], [id(b)]]
    assert [group["is_last_layer"] for group in fused] == [False, True]
    assert all(set(group) == {"params", *constants} for group in fused)


def test_vit_large_fuses_into_official_s_groups() -> None:
    """ViT-L in four chunks: official has 343 trainable tensors in 52 groups, patch embed at 0.9**25 * 0.2."""
    cfg = default_config()
    cfg.student.block_chunks = 4
    with torch.device("meta"):
        student, _, _ = build_model(cfg.student, 224, architectures=ARCHITECTURES)
    groups = get_params_groups_with_decay(student, 0.9, 0.2)
    assert len(groups) == 343
    assert len(fuse_params_groups(groups)) == 52
    rates = {g["name"]: g["lr_multiplier"] for g in groups}
    assert rates["patch_embed.proj.weight"] == 0.9**25 * 0.2
    assert rates["blocks.3.23.attn.qkv.weight"] == 0.9
    assert rates["blocks.0.0.attn.qkv.weight"] == 0.9**24


def test_the_optimizer_has_official_s_betas_and_all_groups() -> None:
    """AdamW over the groups, betas from the configuration."""
    cfg = default_config()
    cfg.optim.adamw_beta2 = 0.95
    optimizer = build_optimizer(cfg, fuse_params_groups(get_params_groups_with_decay(Backbone())))
    assert type(optimizer) is torch.optim.AdamW
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 16


def test_the_description_counts_decayed_and_other_tensors() -> None:
    """2 tokens, 3 matrices decay (14 numbers); 11 vectors do not (22 numbers)."""
    optimizer = build_optimizer(default_config(), fuse_params_groups(get_params_groups_with_decay(Backbone())))
    assert describe_groups(optimizer) == (
        "2 parameter groups; weight decay on 5 tensors (14 parameters), none on 11 tensors (22 parameters)"
    )


@pytest.mark.parametrize(
    ("fast", "device", "dtype", "expected"),
    [
        (False, "cpu", torch.float32, {"foreach": True}),
        (True, "cpu", torch.float32, {"foreach": False, "fused": True}),
        (True, "cpu", torch.float64, {"foreach": False, "fused": True}),
        (True, "cpu", torch.bfloat16, {"foreach": False, "fused": True}),
        (True, "meta", torch.float32, {"foreach": True}),
        (True, "cpu", torch.complex64, {"foreach": True}),
    ],
)
def test_the_fused_kernel_is_taken_where_torch_has_it(
    fast: bool, device: str, dtype: torch.dtype, expected: dict[str, bool]
) -> None:
    """Only when asked for, on a device and for types that it supports; one other parameter decides for its group."""
    parameter = nn.Parameter(torch.ones(2, dtype=dtype, device=device))
    assert adamw_kernel([parameter], fast=fast) == expected
    assert adamw_kernel([nn.Parameter(torch.ones(1)), parameter], fast=fast) == expected


def test_the_fused_kernel_takes_official_s_steps() -> None:
    """Five steps with decay, in float64: parameters and moments are those of the other kernel to rounding."""
    states = []
    for fast in (False, True):
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.randn(7, 3, dtype=torch.float64))
        group = {"params": [parameter], **adamw_kernel([parameter], fast=fast), "weight_decay": 0.1, "lr": 0.01}
        optimizer = build_optimizer(default_config(), [group])
        for _ in range(5):
            parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        states.append([parameter.detach(), *optimizer.state[parameter].values()])
    for official, fused in zip(*states, strict=True):
        torch.testing.assert_close(fused, official, rtol=1e-13, atol=1e-13)
