from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fork_checkpoints import Fork, fork_checkpoint
from torch import nn

from migrations.checkpoint.convert import RECORD, Settings, downgrade, upgrade
from migrations.checkpoint.errors import CheckpointError
from migrations.checkpoint.target import Layout
from port.config import load_config
from port.models import Architecture
from port.optim import apply_optim_scheduler, build_optimizer
from port.ssl_meta_arch import SSLMetaArch

DEPTH = 2
RENAMED = {"backbone": "backbone", "classhead": "dino_head", "patchhead": "ibot_head"}


def same(one: Any, other: Any) -> bool:
    """Whether two checkpoints hold the same keys in the same order and the same bits."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def port_model(chunks: int = 0, decay: float = 0.9) -> SSLMetaArch:
    """The fork's network as port builds it from a configuration."""
    config = load_config(
        None,
        [
            "student.arch=vit_test",
            "student.patch_size=4",
            "student.layerscale=0.5",
            "student.drop_path_rate=0.0",
            f"student.block_chunks={chunks}",
            "dino.head_n_prototypes=12",
            "dino.head_hidden_dim=16",
            "dino.head_bottleneck_dim=8",
            "ibot.separate_head=true",
            "ibot.head_n_prototypes=10",
            "ibot.head_hidden_dim=12",
            "ibot.head_bottleneck_dim=6",
            "crops.global_crops_size=16",
            "crops.local_crops_size=8",
            f"optim.layerwise_decay={decay}",
        ],
    )
    architectures = {"vit_test": Architecture(embed_dim=16, depth=DEPTH, num_heads=2)}
    return SSLMetaArch(config, architectures=architectures)


def as_port_calls(name: str) -> str:
    """The documented renaming, by hand."""
    part, _, rest = name.partition(".")
    return f"{RENAMED[part]}.{rest}"


def test_port_trains_on_with_the_same_weights_and_the_same_moments() -> None:
    """Loaded into port's model and optimizer, every parameter has the fork's value, step count and both moments."""
    fork = Fork()
    converted = upgrade(fork.checkpoint(), Settings()).checkpoint
    model = port_model()
    model.student.load_state_dict(converted["student"])
    model.teacher.load_state_dict(converted["teacher"])
    optimizer = build_optimizer(model.cfg, model.get_params_groups())
    optimizer.load_state_dict(converted["optimizer"])
    ours = dict(model.student.named_parameters())
    assert {as_port_calls(name) for name, _ in fork.student.named_parameters()} == set(ours)
    for name, theirs in fork.student.named_parameters():
        mine = ours[as_port_calls(name)]
        assert torch.equal(mine, theirs), name
        for key, value in fork.optimizer.state[theirs].items():
            assert torch.equal(optimizer.state[mine][key], value), (name, key)
    for name, value in fork.teacher.state_dict().items():
        assert torch.equal(model.teacher.state_dict()[as_port_calls(name)], value), name


def test_the_next_update_is_the_old_optimizers_where_lr_and_weight_decay_agree() -> None:
    """With decay 1.0 and equal schedules, port's fourth AdamW step moves every parameter as the fork's would.

    Worked out by AdamW's formula from the fork's own moments, in double precision.
    """
    fork = Fork()
    before = {name: param.detach().double() for name, param in fork.student.named_parameters()}
    moments = {
        name: (fork.optimizer.state[param]["exp_avg"].double(), fork.optimizer.state[param]["exp_avg_sq"].double())
        for name, param in fork.student.named_parameters()
    }
    converted = upgrade(fork.checkpoint(), Settings(layerwise_decay=1.0, patch_embed_lr_mult=1.0)).checkpoint
    model = port_model(decay=1.0)
    model.cfg.optim.patch_embed_lr_mult = 1.0
    model.student.load_state_dict(converted["student"])
    optimizer = build_optimizer(model.cfg, model.get_params_groups())
    optimizer.load_state_dict(converted["optimizer"])
    lr, wd = 0.02, 0.3
    apply_optim_scheduler(optimizer, lr, wd, lr)
    gradients = fork.gradients(seed=11)
    ours = dict(model.student.named_parameters())
    for name, gradient in gradients.items():
        ours[as_port_calls(name)].grad = gradient.clone()
    optimizer.step()
    for name, gradient in gradients.items():
        first, second = moments[name]
        first = 0.9 * first + 0.1 * gradient.double()
        second = 0.999 * second + 0.001 * gradient.double() ** 2
        spared = name.endswith(".bias") or "norm" in name or "gamma" in name
        update = (first / (1 - 0.9**4)) / ((second / (1 - 0.999**4)).sqrt() + 1e-8)
        expected = before[name] * (1 - lr * (0.0 if spared else wd)) - lr * update
        # fp32 rounding of values up to 3 against steps of 0.02.
        torch.testing.assert_close(ours[as_port_calls(name)].detach().double(), expected, rtol=1e-6, atol=1e-6)


def test_the_next_update_is_bitwise_the_forks() -> None:
    """The fork's optimizer and port's, given one gradient, one lr and one weight decay, leave the same bits."""
    fork = Fork()
    converted = copy.deepcopy(upgrade(fork.checkpoint(), Settings(layerwise_decay=1.0)).checkpoint)
    model = port_model(decay=1.0)
    model.student.load_state_dict(converted["student"])
    optimizer = build_optimizer(model.cfg, model.get_params_groups())
    optimizer.load_state_dict(converted["optimizer"])
    apply_optim_scheduler(optimizer, 0.01, 0.25, 0.01)
    for i, group in enumerate(fork.optimizer.param_groups):
        group["weight_decay"] = 0.25 if i % 2 == 0 else 0.0
    gradients = fork.gradients(seed=11)
    ours = dict(model.student.named_parameters())
    for name, gradient in gradients.items():
        ours[as_port_calls(name)].grad = gradient.clone()
    fork.step(gradients)
    optimizer.step()
    compared = 0
    for name, theirs in fork.student.named_parameters():
        if "patch_embed" not in name:  # its learning rate has a factor of its own
            assert torch.equal(ours[as_port_calls(name)], theirs), name
            compared += 1
    assert compared == len(gradients) - 2


@pytest.mark.parametrize("layout", [Layout(), Layout(chunks=2), Layout(parametrized=True), Layout(2, True)])
def test_there_and_back_is_the_same_bit_for_bit(layout: Layout) -> None:
    """`downgrade` of `upgrade` gives every key, its order, every tensor, group and flag of the fork's checkpoint."""
    old = fork_checkpoint()
    back = downgrade(upgrade(old, Settings(layout=layout, args={"mask_ratio_min": 0.1})).checkpoint)
    assert same(back.checkpoint, old)
    assert vars(back.checkpoint["args"]) == vars(old["args"])
    assert list(vars(back.checkpoint["args"])) == list(vars(old["args"]))


def test_the_way_back_keeps_what_port_trained() -> None:
    """After a step in port, the fork's optimizer loads the downgraded state: its moments are port's new ones."""
    fork = Fork()
    converted = copy.deepcopy(upgrade(fork.checkpoint(), Settings()).checkpoint)
    model = port_model()
    model.student.load_state_dict(converted["student"])
    optimizer = build_optimizer(model.cfg, model.get_params_groups())
    optimizer.load_state_dict(converted["optimizer"])
    for index, param in enumerate(model.student.parameters()):
        param.grad = torch.full_like(param, 0.01 * index)
    optimizer.step()
    trained = {**converted, "student": model.student.state_dict(), "optimizer": optimizer.state_dict()}
    old = downgrade(trained).checkpoint
    fork.student.load_state_dict({name.removeprefix("module."): value for name, value in old["student"].items()})
    fork.optimizer.load_state_dict(old["optimizer"])
    ours = dict(model.student.named_parameters())
    for name, theirs in fork.student.named_parameters():
        mine = ours[as_port_calls(name)]
        assert torch.equal(theirs, mine), name
        assert fork.optimizer.state[theirs]["step"] == 4
        assert torch.equal(fork.optimizer.state[theirs]["exp_avg"], optimizer.state[mine]["exp_avg"]), name


@pytest.mark.parametrize("chunks", [0, 2])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_wrappers_and_chunks_go(chunks: int, prefix: str) -> None:
    """DDP's and torch.compile's prefixes and chunk indices go; flat and chunked networks of port load the result."""
    old = fork_checkpoint(chunks=chunks, steps=1)
    old["student"] = {prefix + name.removeprefix("module."): value for name, value in old["student"].items()}
    for wanted in (0, 2):
        converted = upgrade(old, Settings(layout=Layout(chunks=wanted))).checkpoint
        model = port_model(chunks=wanted)
        model.student.load_state_dict(converted["student"])
        optimizer = build_optimizer(model.cfg, model.get_params_groups())
        optimizer.load_state_dict(converted["optimizer"])
        name = "backbone.blocks.1.1.norm1.weight" if wanted else "backbone.blocks.1.norm1.weight"
        old_name = prefix + ("backbone.blocks.1.1.norm1.weight" if chunks else "backbone.blocks.1.norm1.weight")
        assert torch.equal(model.student.state_dict()[name], old["student"][old_name])


def test_weight_normalisation_is_spelled_both_ways() -> None:
    """`weight_g`, `weight_v` become `parametrizations.weight.original0`, `original1`, and the other way round."""
    old = fork_checkpoint()
    converted = upgrade(old, Settings(layout=Layout(parametrized=True))).checkpoint
    linear = torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 12, bias=False))
    prefix = "dino_head.last_layer."
    state = {n.removeprefix(prefix): v for n, v in converted["student"].items() if n.startswith(prefix)}
    linear.load_state_dict(state)
    assert torch.equal(
        linear.weight, torch._weight_norm(old["student"]["module.classhead.last_layer.weight_v"],
                                          old["student"]["module.classhead.last_layer.weight_g"], 0)
    )  # fmt: skip
    del converted[RECORD]
    back = upgrade(converted, Settings()).checkpoint
    assert "dino_head.last_layer.weight_g" in back["student"]


def test_a_network_that_defines_parameters_in_another_order_keeps_its_moments() -> None:
    """Optimizers number parameters by order; a fork whose tokens come in another order is matched by name."""
    fork = Fork(steps=0)
    backbone = fork.student.backbone
    mask_token, cls_token = backbone.mask_token, backbone.cls_token
    for name in ("mask_token", "cls_token"):
        delattr(backbone, name)
    backbone.mask_token, backbone.cls_token = mask_token, cls_token
    fork.optimizer = torch.optim.AdamW(
        [group for part in ("backbone", "classhead", "patchhead") for group in groups_by_hand(fork, part)]
    )
    fork.step(fork.gradients(5))
    converted = upgrade(fork.checkpoint(), Settings()).checkpoint
    model = port_model()
    optimizer = build_optimizer(model.cfg, model.get_params_groups())
    optimizer.load_state_dict(converted["optimizer"])
    for name in ("mask_token", "cls_token", "pos_embed"):
        moment = optimizer.state[getattr(model.student["backbone"], name)]["exp_avg"]
        torch.testing.assert_close(moment, 0.1 * fork.gradients(5)[f"backbone.{name}"])


def groups_by_hand(fork: Fork, part: str) -> list[dict[str, Any]]:
    """The document's two groups of one module."""
    named = list(getattr(fork.student, part).named_parameters())
    spared = [p for n, p in named if n.endswith(".bias") or p.ndim == 1]
    return [
        {"params": [p for _, p in named if all(p is not s for s in spared)]},
        {"params": spared, "weight_decay": 0.0},
    ]


def test_parameters_without_state_stay_without() -> None:
    """A parameter that never had a gradient has no moments before, and none after."""
    fork = Fork(steps=0)
    gradients = fork.gradients(1)
    fork.step({**gradients, "backbone.mask_token": torch.zeros(1, 16)})
    old = fork.checkpoint()
    number = [
        n for n, _ in enumerate(old["optimizer"]["state"]) if old["optimizer"]["state"][n]["exp_avg"].shape == (1, 16)
    ]
    del old["optimizer"]["state"][number[0]]
    conversion = upgrade(old, Settings())
    assert len(conversion.checkpoint["optimizer"]["state"]) == len(gradients) - 1
    assert any("backbone.mask_token" in note for note in conversion.notes)


def test_a_converted_checkpoint_has_nothing_to_change() -> None:
    """Without the record, converting again finds names and groups official's already."""
    converted = upgrade(fork_checkpoint(), Settings()).checkpoint
    with pytest.raises(CheckpointError, match="converted already"):
        upgrade(converted, Settings())
    del converted[RECORD], converted["optimizer"]
    assert not upgrade(converted, Settings()).changed


def test_another_optimizer_is_left_alone() -> None:
    """A prototype bank's optimizer, whose groups are not the student's, stays and is named."""
    old = fork_checkpoint()
    bank = nn.Parameter(torch.randn(6, 16))
    other = torch.optim.AdamW([bank])
    bank.grad = torch.ones_like(bank)
    other.step()
    old["optimizer_prototypes"] = other.state_dict()
    conversion = upgrade(old, Settings())
    assert conversion.checkpoint["optimizer_prototypes"] is old["optimizer_prototypes"]
    assert any(note.startswith("optimizer_prototypes: kept as it is") for note in conversion.notes)
    assert same(downgrade(conversion.checkpoint).checkpoint, old)
