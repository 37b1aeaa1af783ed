from __future__ import annotations

from typing import Any

import pytest
import torch
from forks import assert_no_alarm, assert_seen, check, fork, port
from torch import nn

from parity.adapters.official import OfficialStack
from parity.adapters.port import PortStack
from port.models import vision_transformer
from port.models.block import Block
from port.ssl_meta_arch import SSLMetaArch


@pytest.mark.parametrize("recipe", ["default", "vitl14", "vitg14"])
@pytest.mark.parametrize("name", ["architectures", "start"])
def test_the_reference_and_port_pass(official_stack: OfficialStack, name: str, recipe: str) -> None:
    """Four architectures, three feed-forward layers, and the teacher before the first step, bit for bit."""
    for subject in (official_stack, port()):
        result = check(official_stack, subject, f"modules.{name}", recipe)
        assert_no_alarm(result)
        assert result.bitwise_equal == result.compared


def test_full_sizes_are_compared(official_stack: OfficialStack) -> None:
    """By hand: ViT-g has 40 blocks of 1,536 dimensions and 24 heads, and a giant's linear is 3 x 1,536 wide."""
    result = check(official_stack, port(), "modules.architectures", "default")
    found = {c.name: c.reference for c in result.comparisons}
    assert found["architectures/vit_giant2, mlp/blocks.39.attn.qkv.weight"] == "(4608, 1536)"
    assert found["architectures/vit_giant2, mlp/attention heads"] == "[24]"
    assert found["architectures/vit_base, mlp/norm.weight"] == "(768,)"
    assert not [name for name in found if "identity" in name and ".mlp." in name]
    assert "architectures/vit_small, swiglufused/blocks.0.mlp.w12.weight" in found


def test_another_number_of_heads_diverges(official_stack: OfficialStack) -> None:
    """All shapes are the same; only the number itself tells."""
    build = PortStack.build_backbone

    def fewer_heads(config: Any) -> nn.Module:
        module = build(port(), config)
        for part in module.modules():
            heads = getattr(part, "num_heads", None)
            if isinstance(heads, int):
                part.__dict__["num_heads"] = heads // 2
        return module

    result = check(official_stack, fork(build_backbone=fewer_heads), "modules.architectures", "default")
    assert {c.name.rpartition("/")[2] for c in result.diverged} == {"attention heads"}


def test_a_backbone_that_lacks_a_parameter_diverges(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a bias for queries, keys and values; each missing name is told."""
    real = Block

    def unbiased(*sizes: Any, **options: Any) -> nn.Module:
        return real(*sizes, **{**options, "qkv_bias": False})

    monkeypatch.setattr(vision_transformer, "Block", unbiased)
    result = check(official_stack, fork(), "modules.architectures", "vitl14")
    assert_seen(result, r"^architectures/vit_small, swiglufused/blocks.0.attn.qkv.bias$")
    assert {c.name.rpartition(".")[2] for c in result.diverged} == {"bias"}


def test_what_cannot_be_built_on_the_meta_device_is_told(official_stack: OfficialStack) -> None:
    """With the error; nothing is passed for it."""

    def build(config: Any) -> nn.Module:
        return nn.Linear(1, 1, bias=bool(torch.zeros(1).item()))

    result = check(official_stack, fork(build_backbone=build), "modules.architectures", "default")
    assert result.status == "not_run"
    assert result.reason.startswith("fork: vit_small cannot be built on torch's meta device: ")


def test_a_teacher_that_starts_from_its_own_values_diverges(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a fork that never copies the student, every tensor that is drawn at random is told, and no constant."""
    monkeypatch.setattr(SSLMetaArch, "synchronise_teacher", lambda self: None)
    result = check(official_stack, fork(), "modules.start", "default")
    assert_seen(result, r"^start/teacher is the student/teacher.backbone.cls_token$")
    assert {c.subject for c in result.diverged} == {"another value"}
    names = {c.name.rpartition("/")[2] for c in result.diverged}
    assert "teacher.dino_head.mlp.0.weight" in names
    assert "teacher.backbone.norm.weight" not in names  # a constant, equal without being copied


def test_a_teacher_without_a_head_diverges(official_stack: OfficialStack) -> None:
    """A tensor that only official has is a failure."""

    def start_state(config: Any, seed: int) -> dict[str, torch.Tensor]:
        state = port().start_state(config, seed)
        return {name: value for name, value in state.items() if not name.startswith("teacher.dino_head.last_layer")}

    result = check(official_stack, fork(start_state=start_state), "modules.start", "default")
    assert_seen(result, r"teacher.dino_head.last_layer.weight_g$")
