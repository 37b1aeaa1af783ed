from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from migrations.document.optimizer import apply_schedules, get_params_groups_with_decay
from migrations.legacy.optimizer import get_params_groups
from port.models import DINOHead, DinoVisionTransformer


def backbone(depth: int, registers: int = 0, chunks: int = 0) -> DinoVisionTransformer:
    """A narrow backbone without data: names and shapes are all that matters."""
    with torch.device("meta"):
        return DinoVisionTransformer(
            embed_dim=24,
            depth=depth,
            num_heads=2,
            init_values=1e-5,
            block_chunks=chunks,
            num_register_tokens=registers,
        )


def groups_by_name(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The document's groups under the names of their parameters."""
    names = {id(param): name for name, param in model.named_parameters()}
    return {names[id(group["params"])]: group for group in get_params_groups_with_decay(model)}


def official_lr(name: str, depth: int, chunked: bool) -> float:
    """`dinov2/utils/param_groups.py:24-48, 83-84` at decay 0.9 and patch-embed factor 0.2."""
    layer = depth + 1
    if any(part in name for part in ("pos_embed", "patch_embed", "mask_token", "cls_token", "register")):
        layer = 0
    elif name.startswith("blocks."):
        layer = int(name.split(".")[2 if chunked else 1]) + 1
    return float(0.9 ** (depth + 1 - layer) * (0.2 if "patch_embed" in name else 1.0))


def official_decays(name: str) -> bool:
    """`dinov2/utils/param_groups.py:80`."""
    return not (name.endswith(".bias") or "norm" in name or "gamma" in name)


def n_wrong_decays(named: list[tuple[str, Any]], wd: float = 0.3) -> int:
    """How many parameters section 6's loop gives another weight decay than official does."""
    optimizer = torch.optim.AdamW([{"params": [param]} for _, param in named])
    apply_schedules(optimizer, lr=1e-3, wd=wd)
    applied = [group["weight_decay"] for group in optimizer.param_groups]
    expected = [wd if official_decays(name) else 0.0 for name, _ in named]
    return sum(a != e for a, e in zip(applied, expected, strict=True))


def test_multipliers_of_a_large_backbone() -> None:
    """Of 24 layers: patch embedding 0.9^25 * 0.2, block 0 0.9^24, block 12 0.9^12, block 23 0.9, norm 1."""
    groups = groups_by_name(backbone(24))
    rates = {
        name: groups[name]["lr_multiplier"]
        for name in (
            "patch_embed.proj.weight",
            "cls_token",
            "blocks.0.attn.qkv.weight",
            "blocks.12.attn.qkv.weight",
            "blocks.23.attn.qkv.weight",
            "norm.weight",
        )
    }
    assert list(rates.values()) == pytest.approx([0.01436, 0.0718, 0.0798, 0.9**12, 0.9, 1.0], rel=1e-3)


@pytest.mark.parametrize("name", ["mask_token", "register_tokens"])
def test_two_embeddings_learn_like_the_head(name: str) -> None:
    """Mask and register tokens have multiplier 1: 14 times official's 0.9^25."""
    rate = groups_by_name(backbone(24, registers=4))[name]["lr_multiplier"]
    assert rate == 1.0
    assert rate / official_lr(name, 24, chunked=False) == pytest.approx(14, abs=0.1)


def test_gammas_decay() -> None:
    """48 of the 344 parameters of 24 blocks decay although official spares them, all of them LayerScale's."""
    groups = groups_by_name(backbone(24, registers=4))
    wrong = {name for name, group in groups.items() if group["wd_multiplier"] != float(official_decays(name))}
    assert (len(wrong), len(groups)) == (48, 344)
    assert all(name.endswith("gamma") for name in wrong)


def test_chunks_are_taken_for_the_depth() -> None:
    """In four chunks 327 of the 343 parameters of 24 blocks have the wrong learning rate."""
    groups = groups_by_name(backbone(24, chunks=4))
    wrong = [
        name
        for name, group in groups.items()
        if group["lr_multiplier"] != pytest.approx(official_lr(name, 24, chunked=True))
    ]
    assert (len(wrong), len(groups)) == (327, 343)


def test_unchunked_only_two_tokens_are_wrong() -> None:
    """Without chunks the learning rates are official's, but for the mask and register tokens."""
    groups = groups_by_name(backbone(24, registers=4))
    wrong = {
        name
        for name, group in groups.items()
        if group["lr_multiplier"] != pytest.approx(official_lr(name, 24, chunked=False))
    }
    assert wrong == {"mask_token", "register_tokens"}


def test_heads_have_no_blocks() -> None:
    """The groups of a head cannot be built."""
    with pytest.raises(AttributeError, match="'DINOHead' object has no attribute 'blocks'"):
        get_params_groups_with_decay(DINOHead(8, 16, hidden_dim=8, bottleneck_dim=4))


def test_frozen_parameters_are_left_out() -> None:
    """A parameter without gradient has no group."""
    model = backbone(2)
    model.pos_embed.requires_grad_(False)
    assert "pos_embed" not in groups_by_name(model)


def test_groups_know_no_last_layer() -> None:
    """One group per parameter, with two multipliers and no `is_last_layer`."""
    model = backbone(2)
    groups = get_params_groups_with_decay(model)
    assert len(groups) == len(list(model.parameters()))
    assert {tuple(group) for group in groups} == {("params", "lr_multiplier", "wd_multiplier")}


def test_every_second_group_is_right_for_the_fork_s_six() -> None:
    """Where decayed and spared groups alternate, section 6's loop is the repair."""
    groups = [group for _ in range(3) for group in get_params_groups(nn.Linear(2, 2))]
    optimizer = torch.optim.AdamW(groups)
    apply_schedules(optimizer, lr=1e-3, wd=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0] * 3


def test_every_second_group_is_wrong_after_section_7() -> None:
    """Of the 176 parameters of 12 blocks with registers, 149 get another decay than official's.

    In official's order a block's even places hold two decayed parameters and five spared ones, and no odd
    place is right: AdamW's 0.01 is neither 0 nor the schedule.
    """
    named = list(backbone(12, registers=4).named_parameters())
    assert (n_wrong_decays(named), len(named)) == (149, 176)


def test_the_order_of_names_decides_how_many_are_wrong() -> None:
    """Where LayerScale's gammas are a block's first parameters, as in a fork, 125 of 176 are wrong."""

    def order(entry: tuple[str, Any]) -> tuple[int, bool]:
        name = entry[0]
        block = int(name.split(".")[1]) if name.startswith("blocks.") else 12 if name.startswith("norm.") else -1
        return block, 0 <= block < 12 and not name.endswith("gamma")

    named = sorted(backbone(12, registers=4).named_parameters(), key=order)
    assert (n_wrong_decays(named), len(named)) == (125, 176)


def test_the_loop_reads_no_multiplier() -> None:
    """Section 7's learning rates are overwritten by one for all."""
    groups = [{**group, "params": [group["params"]]} for group in get_params_groups_with_decay(backbone(2))]
    optimizer = torch.optim.AdamW(groups)
    apply_schedules(optimizer, lr=2e-4, wd=0.3)
    assert {group["lr"] for group in optimizer.param_groups} == {2e-4}
    assert len({group["lr_multiplier"] for group in optimizer.param_groups}) > 1
