from __future__ import annotations

from typing import Any

import pytest
import torch
from fork_checkpoints import Fork, fork_checkpoint
from torch import nn

from migrations.checkpoint.convert import RECORD, Settings, downgrade, upgrade
from migrations.checkpoint.errors import CheckpointError


def refused(old: dict[str, Any], settings: Settings | None = None) -> str:
    """Return why a checkpoint is not converted."""
    with pytest.raises(CheckpointError) as caught:
        upgrade(old, settings or Settings())
    return str(caught.value)


def test_a_name_without_a_place_is_named() -> None:
    """A tensor that the network has no place for is refused under its own name and shape."""
    old = fork_checkpoint()
    old["student"]["module.backbone.extra_token"] = torch.zeros(1, 5)
    assert "student: module.backbone.extra_token (1, 5) has no place" in refused(old)


def test_a_missing_name_is_named() -> None:
    """A tensor that the network needs and the file lacks is refused under the new name."""
    old = fork_checkpoint()
    del old["teacher"]["backbone.blocks.1.norm2.bias"]
    assert "teacher: backbone.blocks.1.norm2.bias (16,) is missing" in refused(old)


def test_another_shape_is_named_with_both() -> None:
    """A shape that does not fit the others is refused with the shape found and the one expected."""
    old = fork_checkpoint()
    old["student"]["module.backbone.blocks.1.attn.qkv.weight"] = torch.zeros(40, 16)
    assert "qkv.weight is (40, 16), expected (48, 16)" in refused(old)


def test_an_unknown_part_asks_for_its_new_name() -> None:
    """A module of another name is not guessed; --rename is named, and works."""
    old = fork_checkpoint()
    for network in ("student", "teacher"):
        old[network] = {name.replace("classhead", "cls_proj"): value for name, value in old[network].items()}
    assert "cls_proj has no counterpart" in refused(old)
    assert "--rename cls_proj=dino_head" in refused(old)
    renamed = upgrade(old, Settings(modules={"cls_proj": "dino_head", "patchhead": "ibot_head"})).checkpoint
    assert "dino_head.last_layer.weight_g" in renamed["student"]


def test_two_names_that_become_one_are_refused() -> None:
    """A wrapped and an unwrapped copy of a tensor would be one; neither is dropped silently."""
    old = fork_checkpoint()
    old["student"]["backbone.cls_token"] = torch.zeros(1, 1, 16)
    assert "would both be called backbone.cls_token" in refused(old)


def test_a_count_that_no_builder_makes_is_refused() -> None:
    """With a parameter missing in the groups, no builder fits; all numbers are in the message."""
    fork = Fork(steps=0)
    group = fork.optimizer.param_groups[4]
    group["params"] = group["params"][:-1]
    fork.step(fork.gradients(0))
    message = refused(fork.checkpoint())
    assert "no known builder fits" in message
    assert "--frozen" in message


def test_moments_of_another_shape_are_refused() -> None:
    """Groups of the right sizes whose moments have other shapes are of another order, which is not guessed."""
    old = fork_checkpoint()
    state = old["optimizer"]["state"]
    state[0], state[5] = state[5], state[0]
    assert "no known builder fits" in refused(old)


def test_groups_that_two_builders_explain_are_refused_until_one_is_named() -> None:
    """Heads of equal shapes stored in another order than the groups' could be exchanged: --groups must say."""
    old = equal_heads()
    message = refused(old)
    assert "two-per-module and two-per-module-as-stored" in message
    assert "--groups" in message
    for builder, first in (("two-per-module", "dino_head"), ("two-per-module-as-stored", "ibot_head")):
        conversion = upgrade(old, Settings(builder=builder))
        record = conversion.checkpoint[RECORD]["optimizers"]["optimizer"]
        assert record["names"][2][0] == f"{first}.mlp.0.weight"


def equal_heads() -> dict[str, Any]:
    """A checkpoint whose heads have equal shapes, the patchhead stored first."""
    old = fork_checkpoint(steps=0)
    for network, prefix in (("student", "module."), ("teacher", "")):
        state = old[network]
        heads = {n: v for n, v in state.items() if n.startswith(f"{prefix}classhead")}
        rest = {n: v for n, v in state.items() if n.startswith(f"{prefix}backbone")}
        patch = {n.replace("classhead", "patchhead"): v for n, v in heads.items()}
        old[network] = {**rest, **patch, **heads}
    return old


def test_a_frozen_parameter_must_be_named() -> None:
    """DINO's frozen `weight_g` is in no group: refused until it is named, then it alone starts anew."""
    fork = Fork(steps=0)
    frozen = fork.student.classhead.last_layer.weight_g
    for group in fork.optimizer.param_groups:
        group["params"] = [param for param in group["params"] if param is not frozen]
    fork.step(fork.gradients(0))
    old = fork.checkpoint()
    assert "no known builder fits" in refused(old)
    conversion = upgrade(old, Settings(frozen=("dino_head.last_layer.weight_g",)))
    assert len(conversion.checkpoint["optimizer"]["state"]) == len(fork.gradients(0)) - 1
    assert "optimizer: dino_head.last_layer.weight_g starts anew, the old optimizer did not hold it" in conversion.notes
    assert "has no such parameter" in refused(old, Settings(frozen=("classhead.last_layer.weight_g",)))


def test_groups_that_differ_in_betas_are_refused() -> None:
    """What port's groups share may not differ between the old ones."""
    old = fork_checkpoint()
    old["optimizer"]["param_groups"][3]["betas"] = (0.8, 0.999)
    assert "groups differ in betas" in refused(old)


def test_an_optimizer_of_another_kind_is_refused() -> None:
    """SGD's momentum is not Adam's moments."""
    fork = Fork(steps=0)
    groups = [{"params": group["params"]} for group in fork.optimizer.param_groups]
    fork.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)  # type: ignore[assignment]  # on purpose
    fork.step(fork.gradients(0))
    assert "momentum_buffer" in refused(fork.checkpoint())


@pytest.mark.parametrize("content", [{}, {"model": {"weight": torch.zeros(1)}}, {"student": {}}])
def test_a_file_without_networks_is_refused(content: dict[str, Any]) -> None:
    """What holds no student and no teacher is refused with what was expected."""
    assert "no student or teacher in it" in refused(content)


def test_the_way_back_needs_the_record_and_its_names() -> None:
    """What was not converted here, or changed its names or groups since, has no way back and says so."""
    converted = upgrade(fork_checkpoint(), Settings()).checkpoint
    with pytest.raises(CheckpointError, match="only what this command converted"):
        downgrade({key: value for key, value in converted.items() if key != RECORD})
    renamed = {**converted, "student": {f"x.{name}": value for name, value in converted["student"].items()}}
    with pytest.raises(CheckpointError, match="not those that it was converted to"):
        downgrade(renamed)
    parameter = nn.Parameter(torch.zeros(1))
    with pytest.raises(CheckpointError, match="regrouped since"):
        downgrade({**converted, "optimizer": torch.optim.AdamW([parameter]).state_dict()})
