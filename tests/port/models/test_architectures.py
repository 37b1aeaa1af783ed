from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from port.config_schema import StudentConfig
from port.models import ARCHITECTURES, Architecture, build_backbone, build_model, flat_blocks

TINY = {"vit_test": Architecture(embed_dim=8, depth=2, num_heads=2)}


def _student(**changes: Any) -> StudentConfig:
    return dataclasses.replace(StudentConfig(), **{"arch": "vit_test", "patch_size": 4, **changes})


@pytest.mark.parametrize(
    ("name", "embed_dim", "depth", "num_heads"),
    [
        ("vit_tiny", 192, 12, 3),
        ("vit_small", 384, 12, 6),
        ("vit_base", 768, 12, 12),
        ("vit_large", 1024, 24, 16),
        ("vit_giant2", 1536, 40, 24),
    ],
)
def test_sizes(name: str, embed_dim: int, depth: int, num_heads: int) -> None:
    """The paper's sizes; every head has 64 features."""
    assert ARCHITECTURES[name] == Architecture(embed_dim, depth, num_heads, 4.0)
    assert embed_dim == 64 * num_heads


@pytest.mark.parametrize(
    ("arch", "ffn_layer", "parameters"),
    # Patch 14, image 518, no registers: the numbers of parameters of the released models.
    [
        ("vit_small", "mlp", 22_056_576),
        ("vit_base", "mlp", 86_580_480),
        ("vit_large", "mlp", 304_368_640),
        ("vit_giant2", "swiglufused", 1_136_480_768),
    ],
)
def test_numbers_of_parameters(arch: str, ffn_layer: str, parameters: int) -> None:
    """Released backbones have 21, 86, 300 and 1100 million parameters."""
    with torch.device("meta"):
        model = build_backbone(_student(arch=arch, patch_size=14, ffn_layer=ffn_layer), 518)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_teacher_is_drawn_first() -> None:
    """Of one random stream, the first backbone is the teacher (and the second the student)."""
    torch.manual_seed(0)
    student, teacher, embed_dim = build_model(_student(), 16, architectures=TINY)
    torch.manual_seed(0)
    first = build_backbone(_student(), 16, architectures=TINY).state_dict()
    second = build_backbone(_student(), 16, architectures=TINY).state_dict()
    assert all(torch.equal(value, first[name]) for name, value in teacher.state_dict().items())
    assert all(torch.equal(value, second[name]) for name, value in student.state_dict().items())
    assert not torch.equal(first["pos_embed"], second["pos_embed"])
    assert embed_dim == 8


@pytest.mark.parametrize(("uniform", "rates"), [(True, [0.3, 0.3]), (False, [0.0, 0.3])])
def test_only_the_student_has_drop_path(uniform: bool, rates: list[float]) -> None:
    """The student's rates are uniform or grow from 0; the teacher's are 0."""
    cfg = _student(drop_path_rate=0.3, drop_path_uniform=uniform)
    student, teacher, _ = build_model(cfg, 16, architectures=TINY)
    assert [block.get_submodule("").sample_drop_ratio for block in student.blocks] == rates
    assert [block.get_submodule("").sample_drop_ratio for block in teacher.blocks] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        ({"qkv_bias": False}, "blocks.0.attn.proj.bias", "blocks.0.attn.qkv.bias"),
        ({"proj_bias": False}, "blocks.0.attn.qkv.bias", "blocks.0.attn.proj.bias"),
        ({"ffn_bias": False}, "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.bias"),
        ({"ffn_layer": "swiglu"}, "blocks.0.mlp.w12.weight", "blocks.0.mlp.fc1.weight"),
        ({"layerscale": 0.0}, "blocks.0.norm1.weight", "blocks.0.ls1.gamma"),
        ({"block_chunks": 2}, "blocks.1.1.norm1.weight", "blocks.1.norm1.weight"),
        ({"num_register_tokens": 4}, "register_tokens", "blocks.0.mlp.w12.weight"),
    ],
)
def test_each_key_of_the_section_takes_effect(changes: dict[str, Any], present: str, absent: str) -> None:
    """A key adds or removes the parameters it is about."""
    names = build_backbone(_student(**changes), 16, architectures=TINY).state_dict().keys()
    assert present in names
    assert absent not in names


@pytest.mark.parametrize(("key", "value"), [("interpolate_antialias", True), ("interpolate_offset", 0.0)])
def test_interpolation_keys_reach_the_model(key: str, value: object) -> None:
    """They are kept under official's attribute names."""
    model = build_backbone(_student(**{key: value}), 16, architectures=TINY)
    assert getattr(model, key) == value
    assert getattr(build_backbone(_student(), 16, architectures=TINY), key) != value


def test_the_memeff_suffix_is_accepted_and_the_section_unchanged() -> None:
    """Old configurations name the attention kernel; official strips it from the configuration itself."""
    cfg = _student(arch="vit_test_memeff")
    assert build_backbone(cfg, 16, architectures=TINY).n_blocks == 2
    assert cfg.arch == "vit_test_memeff"


@pytest.mark.parametrize(("arch", "nearest"), [("vit_lrage", "vit_large"), ("vit_giant", "vit_giant2")])
def test_an_unknown_name_is_answered_with_the_nearest(arch: str, nearest: str) -> None:
    """The error names the value, the choices and the likely one."""
    with pytest.raises(ValueError, match=rf"{arch}'; expected one of vit_tiny, .*; did you mean '{nearest}'"):
        build_model(_student(arch=arch), 16)


def test_an_empty_table_gives_an_error_without_a_guess() -> None:
    """There is nothing near to suggest."""
    with pytest.raises(ValueError, match=r"'vit_test'; expected one of $"):
        build_model(_student(), 16, architectures={})


@pytest.mark.parametrize("fast", [True, False])
def test_both_backbones_have_the_form_that_is_asked_for(fast: bool) -> None:
    """In every block; official's order is the default, and the random numbers are the same."""
    torch.manual_seed(0)
    student, teacher, _ = build_model(_student(), 8, fast=fast, architectures=TINY)
    torch.manual_seed(0)
    plain, _, _ = build_model(_student(), 8, architectures=TINY)
    assert [block.fast for model in (student, teacher, plain) for block in flat_blocks(model.blocks)] == (
        4 * [fast] + 2 * [False]
    )
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), plain.parameters(), strict=True))
