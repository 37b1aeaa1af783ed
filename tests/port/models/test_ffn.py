from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from port.models.ffn import Mlp, SwiGLU, build_ffn, swiglu_hidden_features


def _fill(linear: nn.Module, weight: list[list[float]], bias: list[float]) -> None:
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))


@pytest.mark.parametrize(
    ("mlp_hidden", "expected"),
    # 2/3 rounded down, then up to a multiple of 8; 1536 and 6144 are those of ViT-S and ViT-g.
    [(1536, 1024), (3072, 2048), (4096, 2736), (6144, 4096), (768, 512), (12, 8), (13, 8), (25, 16), (1, 0)],
)
def test_swiglu_hidden_features_are_two_thirds_in_eights(mlp_hidden: int, expected: int) -> None:
    """Hand-computed sizes: 4096 * 2 / 3 = 2730 becomes 2736."""
    assert swiglu_hidden_features(mlp_hidden) == expected


def test_mlp_applies_exact_gelu_between_its_linears() -> None:
    """One unit: 2 * gelu(3x + 1) - 1 with the error function, not its tanh approximation."""
    mlp = Mlp(1, 1)
    _fill(mlp.fc1, [[3.0]], [1.0])
    _fill(mlp.fc2, [[2.0]], [-1.0])
    hidden = 3 * 0.5 + 1
    expected = 2 * hidden * 0.5 * (1 + math.erf(hidden / math.sqrt(2))) - 1
    assert mlp(torch.tensor([0.5])).item() == pytest.approx(expected, rel=1e-6)


def test_swiglu_gates_with_the_first_half() -> None:
    """With w12 giving (x, 2x) repeated over 8 units and w3 their sum: 8 * silu(x) * 2x."""
    ffn = SwiGLU(1, 12)
    _fill(ffn.w12, [[1.0]] * 8 + [[2.0]] * 8, [0.0] * 16)
    _fill(ffn.w3, [[1.0] * 8], [0.5])
    x = -0.7
    expected = 8 * (x / (1 + math.exp(-x))) * (2 * x) + 0.5
    assert ffn(torch.tensor([x])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["swiglu", "swiglufused"])
def test_both_swiglu_names_build_the_same_layer(kind: str) -> None:
    """Names and shapes are official's SwiGLUFFNFused's, at 16 = ceil8(24 * 2 / 3)."""
    shapes = {name: tuple(p.shape) for name, p in build_ffn(kind, 6, 24, bias=True).named_parameters()}
    assert shapes == {"w12.weight": (32, 6), "w12.bias": (32,), "w3.weight": (6, 16), "w3.bias": (6,)}


def test_mlp_has_official_names() -> None:
    """fc1 and fc2 with their biases."""
    shapes = {name: tuple(p.shape) for name, p in build_ffn("mlp", 6, 24, bias=True).named_parameters()}
    assert shapes == {"fc1.weight": (24, 6), "fc1.bias": (24,), "fc2.weight": (6, 24), "fc2.bias": (6,)}


@pytest.mark.parametrize(("kind", "names"), [("mlp", ["fc1", "fc2"]), ("swiglu", ["w12", "w3"])])
def test_biases_can_be_left_out(kind: str, names: list[str]) -> None:
    """Without bias, only weights remain."""
    ffn = build_ffn(kind, 6, 24, bias=False)
    assert [name for name, _ in ffn.named_parameters()] == [f"{name}.weight" for name in names]


def test_identity_has_no_parameters() -> None:
    """The identity returns its input."""
    ffn = build_ffn("identity", 6, 24, bias=True)
    x = torch.randn(2, 6)
    assert ffn(x) is x
    assert list(ffn.parameters()) == []


def test_an_unknown_layer_is_named_with_the_known_ones() -> None:
    """The error shows the value and the choices."""
    with pytest.raises(ValueError, match=r"'gelu'; expected one of mlp, swiglu, swiglufused, identity"):
        build_ffn("gelu", 6, 24, bias=True)
