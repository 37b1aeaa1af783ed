from __future__ import annotations

import pytest

from parity.errors import SubjectError
from parity.names import canonical, canonical_mapping


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("backbone.cls_token", "backbone.cls_token"),
        ("backbone.blocks.7.attn.qkv.weight", "backbone.blocks.7.attn.qkv.weight"),
        ("backbone.blocks.1.7.attn.qkv.weight", "backbone.blocks.7.attn.qkv.weight"),
        ("blocks.0.11.ls1.gamma", "blocks.11.ls1.gamma"),
        ("module.backbone.pos_embed", "backbone.pos_embed"),
        ("_orig_mod.module.backbone.norm.bias", "backbone.norm.bias"),
        (
            "backbone._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.3.mlp.fc1.bias",
            "backbone.blocks.3.mlp.fc1.bias",
        ),
        ("blocks.2._checkpoint_wrapped_module.norm1.weight", "blocks.2.norm1.weight"),
        ("dino_head.last_layer.parametrizations.weight.original0", "dino_head.last_layer.weight_g"),
        ("dino_head.last_layer.parametrizations.weight.original1", "dino_head.last_layer.weight_v"),
        ("dino_head.last_layer.weight_g", "dino_head.last_layer.weight_g"),
    ],
)
def test_wrappers_chunks_and_parametrizations_are_spelled_as_official(name: str, expected: str) -> None:
    """Official's unchunked, unwrapped, old-style name is the canonical one."""
    assert canonical(name) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize("name", ["mymodule.weight", "backbone.submodule.bias", "myblocks.0.3.weight"])
def test_names_that_merely_contain_a_wrapper_are_left_alone(name: str) -> None:
    """Only a whole component of the name is a wrapper or a list of blocks."""
    assert canonical(name) == name


def test_a_mapping_keeps_values_and_order() -> None:
    """Keys are renamed, values and their order are not."""
    values = {"module.b": 1, "module.a": 2, "blocks.0.5.x": 3}
    assert list(canonical_mapping(values, "fork").items()) == [("b", 1), ("a", 2), ("blocks.5.x", 3)]


def test_two_names_of_one_tensor_are_refused() -> None:
    """A tensor that exists wrapped and unwrapped has no single value; the message names both and the owner."""
    with pytest.raises(SubjectError, match=r"fork has two tensors called 'head.weight'.*'module.head.weight'"):
        canonical_mapping({"head.weight": 1, "module.head.weight": 2}, "fork")
