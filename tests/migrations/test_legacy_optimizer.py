from __future__ import annotations

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from migrations.legacy import LegacyStack
from migrations.legacy.optimizer import apply_schedules, build_optimizer, get_params_groups, parameter_rows
from port.config import load_recipe
from port.models import Architecture

TINY = {"tiny": Architecture(embed_dim=48, depth=2, num_heads=3)}


def config(recipe: str, *overrides: str) -> DictConfig:
    """A recipe with a backbone of two blocks and small heads."""
    sizes = [f"{head}.head_{key}=16" for head in ("dino", "ibot") for key in ("n_prototypes", "hidden_dim")]
    return load_recipe(recipe, ["student.arch=tiny", "student.block_chunks=0", *sizes, *overrides])


def modules() -> list[nn.Module]:
    """A backbone, a classhead and a patchhead of one linear each."""
    return [nn.Linear(2, 2) for _ in range(3)]


def undecayed_by_official_names(name: str) -> bool:
    """`dinov2/utils/param_groups.py:80`."""
    return name.endswith(".bias") or "norm" in name or "gamma" in name


def test_six_groups_alternate() -> None:
    """Matrices in groups 0, 2 and 4, biases in 1, 3 and 5."""
    optimizer = build_optimizer(modules(), config("vitl14"))
    assert [[p.ndim for p in group["params"]] for group in optimizer.param_groups] == [[2], [1]] * 3


def test_only_group_0_follows_the_schedule() -> None:
    """At the peak of 0.4 the heads stay at AdamW's 0.01: a fortieth, not the document's twenty-fifth."""
    optimizer = build_optimizer(modules(), config("vitl16_short"))
    apply_schedules(optimizer, lr=1e-3, wd=0.4)
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [0.4, 0.0, 0.01, 0.0, 0.01, 0.0]
    assert decays[0] / decays[2] == pytest.approx(40)


def test_every_group_has_one_learning_rate() -> None:
    """No layer has a multiplier."""
    optimizer = build_optimizer(modules(), config("vitl16_short"))
    apply_schedules(optimizer, lr=3e-4, wd=0.4)
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}


def test_betas_are_the_configuration_s() -> None:
    """AdamW's betas are not torch's where the configuration says otherwise."""
    optimizer = build_optimizer(modules(), config("vitl14", "optim.adamw_beta2=0.95"))
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def test_frozen_parameters_are_left_out() -> None:
    """A parameter without gradient is in no group."""
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    regularized, rest = get_params_groups(model)
    assert regularized["params"] == []
    assert [id(p) for p in rest["params"]] == [id(model.bias)]


def test_rows_report_what_the_optimizer_holds() -> None:
    """One row per parameter, with its group's number and, on request, further keys."""
    model = nn.Linear(2, 2)
    groups: list[dict[str, object]] = [
        {"params": [model.weight], "lr": 0.5, "tag": "w"},
        {"params": [model.bias], "tag": "b"},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.25)
    names = {id(model.weight): "weight", id(model.bias): "bias"}
    assert parameter_rows(optimizer, names, extras=("tag",)) == {
        "weight": {"lr": 0.5, "weight_decay": 0.01, "group": 0, "tag": "w"},
        "bias": {"lr": 0.25, "weight_decay": 0.01, "group": 1, "tag": "b"},
    }


def test_table_of_a_separate_head_has_six_groups() -> None:
    """`ibot_head` is the fork's patchhead: groups 4 and 5."""
    table = LegacyStack(TINY).parameter_groups(config("vitl14"), [0])[0]
    groups = {(name.split(".")[0], row["group"]) for name, row in table.items()}
    assert groups == {
        ("backbone", 0),
        ("backbone", 1),
        ("dino_head", 2),
        ("dino_head", 3),
        ("ibot_head", 4),
        ("ibot_head", 5),
    }


def test_table_of_a_shared_head_has_four_groups() -> None:
    """Without a patchhead there is no group 4 and 5."""
    table = LegacyStack(TINY).parameter_groups(config("vitl16_short"), [0])[0]
    assert {row["group"] for row in table.values()} == {0, 1, 2, 3}


@pytest.mark.parametrize("recipe", ["vitl16_short", "vitl14"])
def test_undecayed_parameters_are_official_s(recipe: str) -> None:
    """By shape or by name, the same parameters are spared: this part of the fork is not to be reported."""
    table = LegacyStack(TINY).parameter_groups(config(recipe), [0])[0]
    spared = {name for name, row in table.items() if row["group"] % 2 == 1}
    assert spared == {name for name in table if undecayed_by_official_names(name)}


def test_table_follows_the_schedule_in_the_backbone_only() -> None:
    """Decay goes from 0.04 to nearly 0.4 in group 0, and stays 0.01 in the heads."""
    cfg = config("vitl16_short")
    last = cfg.optim.epochs * cfg.train.OFFICIAL_EPOCH_LENGTH - 1
    table = LegacyStack(TINY).parameter_groups(cfg, [0, last])
    backbone, head = "backbone.blocks.0.attn.qkv.weight", "dino_head.mlp.0.weight"
    assert table[0][backbone]["weight_decay"] == pytest.approx(0.04)
    assert table[last][backbone]["weight_decay"] == pytest.approx(0.4, abs=1e-6)
    assert [table[i][head]["weight_decay"] for i in (0, last)] == [0.01, 0.01]


def test_last_layer_is_never_frozen() -> None:
    """In the first epoch, where official holds it at 0, the last layer has the lr of all."""
    cfg = config("vitl16_short")
    table = LegacyStack(TINY).parameter_groups(cfg, [100])[100]
    rates = sorted({row["lr"] for row in table.values()})
    # A warm-up of 12,500 iterations to 0.004 * sqrt(64 / 1024), its end included.
    assert rates == pytest.approx([0.001 * 100 / 12_499])
    assert table["dino_head.last_layer.weight_v"]["lr"] > 0
