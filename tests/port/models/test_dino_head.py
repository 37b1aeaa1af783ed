from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import nn

from port.models import DINOHead, LogitFactors
from port.models.dino_head import WeightNormLinear


def _head(**changes: Any) -> DINOHead:
    arguments: dict[str, Any] = {"in_dim": 6, "out_dim": 10, "hidden_dim": 8, "bottleneck_dim": 4}
    return DINOHead(**{**arguments, **changes})


NAMES = {
    1: ["mlp.weight", "mlp.bias"],
    2: ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"],
    3: ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "mlp.4.weight", "mlp.4.bias"],
}
LAST = ["last_layer.weight_g", "last_layer.weight_v"]


@pytest.mark.parametrize(("nlayers", "as_if"), [(-1, 1), (0, 1), (1, 1), (2, 2), (3, 3)])
def test_names_of_parameters(nlayers: int, as_if: int) -> None:
    """Official's names in official's order; fewer than one layer counts as one."""
    assert [name for name, _ in _head(nlayers=nlayers).named_parameters()] == NAMES[as_if] + LAST


def test_names_without_biases_and_with_batch_norm() -> None:
    """Batch norm takes a place in the sequence after each hidden linear."""
    names = [name for name, _ in _head(nlayers=3, use_bn=True, mlp_bias=False).named_parameters()]
    norms = ["mlp.1.weight", "mlp.1.bias", "mlp.4.weight", "mlp.4.bias"]
    assert names == ["mlp.0.weight", *norms[:2], "mlp.3.weight", *norms[2:], "mlp.6.weight", *LAST]


def test_shapes_of_the_default_head() -> None:
    """Widths are in_dim, hidden, hidden, bottleneck, out_dim."""
    shapes = {name: tuple(p.shape) for name, p in _head().named_parameters() if "bias" not in name}
    assert shapes == {
        "mlp.0.weight": (8, 6),
        "mlp.2.weight": (8, 8),
        "mlp.4.weight": (4, 8),
        "last_layer.weight_g": (10, 1),
        "last_layer.weight_v": (10, 4),
    }


def test_initial_values_replay_the_random_numbers() -> None:
    """All linears of the MLP draw their defaults, then their truncated normals; the last layer comes last."""
    torch.manual_seed(3)
    head = _head(nlayers=2)
    torch.manual_seed(3)
    first, second = nn.Linear(6, 8), nn.Linear(8, 4)
    for linear in (first, second):
        nn.init.trunc_normal_(linear.weight, std=0.02)
    last = nn.Linear(4, 10, bias=False)
    expected = [first.weight, torch.zeros(8), second.weight, torch.zeros(4), torch.ones(10, 1), last.weight]
    assert all(torch.equal(p, e) for p, e in zip(head.parameters(), expected, strict=True))


def test_logits_are_cosines() -> None:
    """With lengths of 1, a logit is the cosine of the bottleneck and the prototype's direction."""
    torch.manual_seed(0)
    head = _head().double()
    x = torch.randn(5, 6, dtype=torch.float64)
    bottleneck = head.mlp(x)
    expected = nn.functional.cosine_similarity(bottleneck.unsqueeze(1), head.last_layer.weight_v.unsqueeze(0), dim=-1)
    torch.testing.assert_close(head(x), expected, rtol=1e-10, atol=1e-12)


def test_logits_ignore_the_size_of_directions_and_follow_lengths() -> None:
    """Ten times weight_v changes nothing; doubling one length doubles that logit alone."""
    torch.manual_seed(0)
    head = _head().double()
    x = torch.randn(5, 6, dtype=torch.float64)
    before = head(x).detach()
    with torch.no_grad():
        head.last_layer.weight_v.mul_(10.0)
        head.last_layer.weight_g[3] = 2.0
    factors = torch.ones(10, dtype=torch.float64)
    factors[3] = 2.0
    torch.testing.assert_close(head(x).detach(), before * factors, rtol=1e-10, atol=1e-12)


def test_a_zero_bottleneck_gives_zero_logits_also_in_half_precision() -> None:
    """The norm's epsilon does not vanish in float16, where 1e-12 would be 0 and give NaN."""
    head = _head(nlayers=1, mlp_bias=False).half()
    assert torch.equal(head(torch.zeros(2, 6, dtype=torch.float16)), torch.zeros(2, 10, dtype=torch.float16))


def test_weight_by_hand() -> None:
    """A row (3, 4) of length 5 scaled to length 10 is (6, 8)."""
    linear = WeightNormLinear(2, 1)
    with torch.no_grad():
        linear.weight_v.copy_(torch.tensor([[3.0, 4.0]]))
        linear.weight_g.fill_(10.0)
    assert linear.weight.tolist() == [[6.0, 8.0]]
    assert linear(torch.tensor([[1.0, -1.0]])).tolist() == [[-2.0]]


def test_gradients_reach_lengths_and_directions() -> None:
    """The gradient of a direction is perpendicular to it, as its size has no effect; a length's is not zero."""
    torch.manual_seed(0)
    head = _head().double()
    head(torch.randn(5, 6, dtype=torch.float64)).square().sum().backward()
    g, v = head.last_layer.weight_g, head.last_layer.weight_v
    assert g.grad is not None
    assert v.grad is not None
    torch.testing.assert_close((v.grad * v).sum(dim=1), torch.zeros(10, dtype=torch.float64), rtol=0, atol=1e-12)
    assert bool((g.grad != 0).all())
    assert bool((v.grad != 0).any())


def test_batch_norm_uses_the_batch_while_training() -> None:
    """A constant shift of the first linear's output is taken out by batch norm."""
    torch.manual_seed(0)
    head = _head(use_bn=True).double()
    x = torch.randn(7, 6, dtype=torch.float64)
    before = head(x).detach()
    with torch.no_grad():
        cast(nn.Sequential, head.mlp).get_parameter("0.bias").add_(5.0)
    torch.testing.assert_close(head(x).detach(), before, rtol=1e-7, atol=1e-9)


def test_a_copy_is_independent() -> None:
    """A deepcopy works after a forward pass and shares nothing."""
    torch.manual_seed(0)
    head = _head()
    x = torch.randn(3, 6)
    before = head(x).detach()
    clone = copy.deepcopy(head)
    with torch.no_grad():
        clone.last_layer.weight_g.fill_(3.0)
    assert torch.equal(head(x), before)
    torch.testing.assert_close(clone(x), 3 * before)


@pytest.mark.parametrize("copied", [False, True], ids=["itself", "a copy"])
def test_parametrizations_spelling_is_loaded(copied: bool) -> None:
    """A state dict of torch's newer weight_norm loads strictly, original0 as lengths, and stays unchanged."""
    torch.manual_seed(0)
    other = nn.utils.parametrizations.weight_norm(nn.Linear(4, 10, bias=False), dim=0)
    state = {f"last_layer.{name}": value for name, value in other.state_dict().items()}
    assert set(state) == {f"last_layer.parametrizations.weight.original{i}" for i in (0, 1)}
    head = copy.deepcopy(_head()) if copied else _head()
    state |= {name: value for name, value in head.state_dict().items() if name.startswith("mlp")}
    names = list(state)
    head.load_state_dict(state, strict=True)
    assert torch.equal(head.last_layer.weight, other.weight)
    assert list(state) == names


def test_official_spelling_is_loaded_and_others_are_refused() -> None:
    """Official names load strictly; an unknown name does not."""
    head, other = _head(), _head()
    head.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(head.last_layer.weight_v, other.last_layer.weight_v)
    with pytest.raises(RuntimeError, match="weight_h"):
        head.load_state_dict({**other.state_dict(), "last_layer.weight_h": torch.zeros(1)})


def test_the_last_layer_shows_its_sizes() -> None:
    """Sizes can be read in a printed model."""
    assert repr(WeightNormLinear(4, 10)) == "WeightNormLinear(in_features=4, out_features=10)"


def test_a_head_can_be_built_on_the_meta_device() -> None:
    """No memory is used and no random number drawn on the CPU."""
    before = torch.get_rng_state()
    with torch.device("meta"):
        head = _head()
    assert all(p.is_meta for p in head.parameters())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("shape", [(5, 6), (1, 4, 6), (0, 6)])
def test_the_factors_product_is_the_logits(shape: tuple[int, ...]) -> None:
    """Features of length 1 times the last layer's weight, bit for bit; lengths and directions get gradients."""
    torch.manual_seed(0)
    head = DINOHead(6, 9, hidden_dim=8, bottleneck_dim=4)
    with torch.no_grad():
        head.last_layer.weight_g.uniform_(0.5, 2)
    tokens = torch.randn(shape)
    logits, factors = head(tokens), head(tokens, factors=True)
    assert isinstance(factors, LogitFactors)
    weight = torch._weight_norm(factors.weight_v, factors.weight_g, 0)
    assert torch.equal(torch.nn.functional.linear(factors.features, weight), logits)
    torch.testing.assert_close(factors.features.norm(dim=-1), torch.ones(shape[:-1]))
    torch.testing.assert_close(weight.norm(dim=1, keepdim=True), head.last_layer.weight_g)
    assert torch.equal(factors.logits(), logits)
    weight.sum().backward()
    assert head.last_layer.weight_g.grad is not None
    assert head.last_layer.weight_v.grad is not None
