from __future__ import annotations

import pytest
import torch
from torch import Tensor

from port.weights.names import canonical, canonical_state, split_parts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.3.attn.qkv.weight", "blocks.3.attn.qkv.weight"),
        ("blocks.0.3.attn.qkv.weight", "blocks.3.attn.qkv.weight"),
        ("backbone.blocks.2.11.norm1.bias", "backbone.blocks.11.norm1.bias"),
        ("teacher.backbone.blocks.1.7.mlp.fc1.bias", "teacher.backbone.blocks.7.mlp.fc1.bias"),
        ("model.module.backbone.cls_token", "backbone.cls_token"),
        ("model.teacher.backbone._fsdp_wrapped_module.blocks.0.0.ls1.gamma", "teacher.backbone.blocks.0.ls1.gamma"),
        ("_orig_mod.blocks.1._checkpoint_wrapped_module.norm1.weight", "blocks.1.norm1.weight"),
        ("state_dict.pos_embed", "pos_embed"),
        ("dino_head.last_layer.parametrizations.weight.original0", "dino_head.last_layer.weight_g"),
        ("dino_head.last_layer.parametrizations.weight.original1", "dino_head.last_layer.weight_v"),
        ("dino_head.last_layer.weight_v", "dino_head.last_layer.weight_v"),
        ("patch_embed.proj.weight", "patch_embed.proj.weight"),
        ("remodel.weight", "remodel.weight"),
    ],
)
def test_names_lose_wrappers_and_chunks(name: str, expected: str) -> None:
    """One spelling, whatever DDP, FSDP, torch.compile, checkpointing or chunks put into a name."""
    assert canonical(name) == expected


def _tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.tensor(float(i)) for i, name in enumerate(names)}


def test_a_canonical_name_stays() -> None:
    """Renaming twice changes nothing more."""
    once = canonical("model.module.blocks.1.7.ls2.gamma")
    assert canonical(once) == once == "blocks.7.ls2.gamma"


def test_two_tensors_of_one_name_are_an_error() -> None:
    """Taking either would be a guess."""
    with pytest.raises(ValueError, match=r"two tensors are called 'blocks\.1\.norm1\.weight'"):
        canonical_state(_tensors("blocks.1.norm1.weight", "blocks.0.1.norm1.weight"))


@pytest.mark.parametrize("outer", ["model", "state_dict", "module.model"])
def test_what_lies_beside_the_model_is_left_out(outer: str) -> None:
    """An optimizer's state in the same file has no place in a backbone."""
    state = canonical_state(_tensors(f"{outer}.cls_token", "optimizer.state.0.exp_avg", "optimizer.cls_token"))
    assert list(state) == ["cls_token"]
    assert state["cls_token"].item() == 0


def test_a_bare_backbone_is_the_backbone() -> None:
    """Released files have no prefix."""
    parts, network = split_parts(_tensors("cls_token", "norm.weight"))
    assert set(parts["backbone"]) == {"cls_token", "norm.weight"}
    assert (parts["dino_head"], parts["ibot_head"], network) == ({}, {}, None)


def test_a_network_is_taken_apart() -> None:
    """Backbone and heads, each under its own names."""
    parts, network = split_parts(_tensors("backbone.cls_token", "dino_head.mlp.0.bias", "ibot_head.mlp.0.bias"))
    assert [list(parts[key]) for key in ("backbone", "dino_head", "ibot_head")] == [
        ["cls_token"],
        ["mlp.0.bias"],
        ["mlp.0.bias"],
    ]
    assert parts["ibot_head"]["mlp.0.bias"].item() == 2
    assert network is None


@pytest.mark.parametrize(("asked", "value"), [(None, 1), ("teacher", 1), ("student", 0)])
def test_of_two_networks_the_teacher_is_taken(asked: str | None, value: int) -> None:
    """Unless the student is asked for."""
    state = _tensors("student.backbone.cls_token", "teacher.backbone.cls_token", "dino_loss.center")
    parts, network = split_parts(state, asked)
    assert parts["backbone"]["cls_token"].item() == value
    assert network == (asked or "teacher")
    assert list(parts["backbone"]) == ["cls_token"]


def test_a_network_that_is_not_there_is_an_error() -> None:
    """A teacher's file holds no student."""
    with pytest.raises(ValueError, match="holds the teacher only, not the student"):
        split_parts(_tensors("teacher.backbone.cls_token"), "student")


def test_a_bare_network_is_taken_as_either() -> None:
    """Names that do not say whose they are fit both."""
    parts, network = split_parts(_tensors("backbone.cls_token"), "student")
    assert list(parts["backbone"]) == ["cls_token"]
    assert network is None


def test_a_network_directly_below_teacher_needs_no_backbone() -> None:
    """`{"teacher": backbone}` is understood too."""
    parts, network = split_parts(_tensors("teacher.cls_token", "teacher.dino_head.last_layer.weight_g"))
    assert list(parts["backbone"]) == ["cls_token"]
    assert list(parts["dino_head"]) == ["last_layer.weight_g"]
    assert network == "teacher"
