"""Cross-entropy from the features before the last layer, against its definition by torch's own operations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from port.losses import cross_entropy, linear_cross_entropy
from port.losses.linear_cross_entropy import CrossEntropyTerm
from port.losses.linear_cross_entropy import linear_cross_entropy as fused
from port.losses.precision import product_dtype

K, D = 7, 3


@pytest.fixture(params=[(1, 1, 2), (40, 10, 4), (2**23, 2**18, 1024)])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row at a time, a few, and all; products of few columns and of all."""
    held, cached, columns = request.param
    monkeypatch.setitem(linear_cross_entropy.HELD_ELEMENTS, "cpu", held)
    monkeypatch.setitem(linear_cross_entropy.PRODUCT_COLUMNS, "cpu", columns)
    monkeypatch.setitem(cross_entropy.CHUNK_ELEMENTS, "cpu", cached)


Layer = tuple[Tensor, Tensor]
"""Directions and lengths of a last layer's rows."""


def case(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Layer, list[CrossEntropyTerm]]:
    """Return a layer and three terms: two students of one target, one with weights, one without rows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def targets(n_rows: int) -> Tensor:
        return draw(n_rows, K).abs().to(torch.promote_types(dtype, torch.float32))

    layer = draw(K, D).requires_grad_(), (draw(K, 1) * 2).requires_grad_()
    return layer, [
        CrossEntropyTerm(draw(2, 4, D).requires_grad_(), targets(4), 0.1, 0.25, 3.0),
        CrossEntropyTerm(draw(1, 5, D).requires_grad_(), targets(5), 0.7, 0.5, 0.2, targets(5)[:, 0]),
        CrossEntropyTerm(draw(1, 0, D).requires_grad_(), targets(0), 0.1, 1.0),
    ]


def weight_of(layer: Layer) -> Tensor:
    """Return the rows of given directions and lengths."""
    v, g = layer
    weight: Tensor = g * v / v.norm(dim=1, keepdim=True)
    return weight


def by_definition(layer: Layer, terms: list[CrossEntropyTerm]) -> tuple[Tensor, Tensor]:
    """Return the total and the terms' values, by log-softmax of all logits."""
    weight, values = weight_of(layer), []
    for term in terms:
        log_probabilities = torch.log_softmax(term.features @ weight.t() / term.temperature, -1)
        rows = -(term.targets * log_probabilities).sum(-1)
        values.append((rows if term.weights is None else rows * term.weights).sum() * term.scale)
    return sum((t.factor * v for t, v in zip(terms, values, strict=True)), torch.zeros(())), torch.stack(values)


def gradients(total: Tensor, layer: Layer, terms: list[CrossEntropyTerm]) -> tuple[Tensor, ...]:
    """Return those of directions, lengths and each term's features, of a function of the total."""
    return torch.autograd.grad(torch.exp(total / 100), [*layer, *(term.features for term in terms)])


def test_one_row_by_hand() -> None:
    """Logits (0.1, 0.1 + 0.1 log 3) are probabilities (1/4, 3/4); targets (1, 2) pay log 4 + 2 log 4/3, times 5 and 2.

    The lengths are the logits, as directions of one number are signs; so no direction has a gradient.
    """
    v = torch.tensor([[-3.0], [7.0]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[-0.1], [0.1 + 0.1 * math.log(3)]], dtype=torch.float64, requires_grad=True)
    features = torch.ones(1, 1, 1, dtype=torch.float64, requires_grad=True)
    term = CrossEntropyTerm(features, torch.tensor([[1.0, 2.0]]), 0.1, scale=5.0, factor=2.0)
    total, values = fused(v, g, [term])
    cost = math.log(4) + 2 * math.log(4 / 3)
    assert [total.item(), *values.tolist()] == pytest.approx([10 * cost, 5 * cost])
    total.backward()
    # 10 / 0.1 * (3 * softmax - t) by the logits; the first one's direction is negative
    torch.testing.assert_close(g.grad, torch.tensor([[100 * 0.25], [100 * 0.25]], dtype=torch.float64))
    torch.testing.assert_close(v.grad, torch.zeros(2, 1, dtype=torch.float64))
    torch.testing.assert_close(features.grad, torch.full((1, 1, 1), 25 * 0.1 * math.log(3), dtype=torch.float64))


@pytest.mark.usefixtures("chunk")
def test_it_is_the_definition_in_chunks_of_any_size() -> None:
    """Total, values and every gradient in float64, to rounding, whatever is upstream."""
    layer, terms = case()
    (total, values), (expected, each) = fused(*layer, terms), by_definition(layer, terms)
    torch.testing.assert_close(total, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(values, each, rtol=1e-13, atol=1e-13)
    for found, wanted in zip(gradients(total, layer, terms), gradients(expected, layer, terms), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 1000), size=st.floats(0.01, 300))
@settings(max_examples=30, deadline=None)
def test_logits_of_any_size(seed: int, size: float) -> None:
    """Logits of thousands of temperatures neither overflow nor lose the least loss."""
    layer, terms = case(seed=seed)
    v, g = layer
    scaled = (g.detach() * size).requires_grad_()
    (total, _), (expected, _) = fused(v, scaled, terms), by_definition((v, scaled), terms)
    torch.testing.assert_close(total, expected, rtol=1e-11, atol=1e-9)
    (found,), (wanted,) = (torch.autograd.grad(value, scaled) for value in (total, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_products_are_narrow_and_sums_are_wide(dtype: torch.dtype) -> None:
    """The logits are a half-precision linear layer's; losses are float32, and gradients come in the inputs' types."""
    layer, terms = case(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        total, values = fused(*layer, terms)
        logits = [torch.nn.functional.linear(term.features, weight_of(layer)) for term in terms]
    assert {logit.dtype for logit in logits} == {dtype}
    assert (total.dtype, values.dtype) == (torch.float32, torch.float32)
    exact = [t._replace(features=x.detach().float()) for t, x in zip(terms, logits, strict=True)]
    _, expected = by_definition((torch.eye(K), torch.ones(K, 1)), exact)
    torch.testing.assert_close(values, expected)
    found = gradients(total, layer, terms)
    wanted = gradients(by_definition(layer, terms)[0], layer, terms)
    assert {gradient.dtype for gradient in found} == {torch.float32}
    for one, other in zip(found, wanted, strict=True):
        # Rounded logits of about 5 are divided by the temperature: bfloat16's eighth bit counts a tenth.
        assert (one - other).norm() <= (0.02 if dtype == torch.float16 else 0.15) * other.norm()


def test_small_factors_do_not_underflow_in_half_precision() -> None:
    """A term that counts 1e-6 has a gradient 1e-6 times as large, where float16 ends at 6e-8."""
    layer, terms = case(torch.float32)
    with torch.autocast("cpu", dtype=torch.float16):
        (small,), (large,) = (
            torch.autograd.grad(fused(*layer, [terms[0]._replace(factor=factor)])[0], terms[0].features)
            for factor in (1e-6, 1.0)
        )
    torch.testing.assert_close(small * 1e6, large)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_of_products_is_a_linear_layers(dtype: torch.dtype, autocast: torch.dtype | None) -> None:
    """Autocast narrows float32 and leaves float64 alone."""
    weight = torch.ones(2, 2, dtype=dtype)
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        assert product_dtype(weight) == torch.nn.functional.linear(weight, weight).dtype
        assert product_dtype(weight.to("meta")) == dtype  # which knows no autocast


def test_a_second_backward_pass_is_an_error() -> None:
    """Gradients are kept once and not copied, so that a retained graph is no use; no wrong number is returned."""
    layer, terms = case()
    total, _ = fused(*layer, terms)
    torch.autograd.grad(total, layer, retain_graph=True)
    with pytest.raises(RuntimeError, match="for one backward pass; kernels=official_order has more"):
        torch.autograd.grad(total, layer)


def test_values_have_no_gradient_of_their_own() -> None:
    """Only the total has: all terms share one gradient."""
    layer, terms = case()
    total, values = fused(*layer, terms)
    assert (total.requires_grad, values.requires_grad) == (True, False)


def test_a_second_derivative_is_an_error() -> None:
    """There is none, and nobody is given a zero for it."""
    layer, terms = case()
    total, _ = fused(*layer, terms)
    with pytest.raises(RuntimeError, match="no second derivative; kernels=official_order has"):
        torch.autograd.grad(total, layer, create_graph=True)


@pytest.mark.parametrize("of_weight", [False, True])
def test_a_frozen_side_gets_no_gradient(of_weight: bool) -> None:
    """The other side's is what it was."""
    layer, terms = case()
    expected = gradients(fused(*layer, terms)[0], layer, terms)
    if of_weight:
        (found,) = torch.autograd.grad(
            fused(*layer, [t._replace(features=t.features.detach()) for t in terms])[0], layer[0]
        )
        (wanted,) = torch.autograd.grad(fused(*layer, terms)[0], layer[0])
    else:
        (found,) = torch.autograd.grad(fused(layer[0].detach(), layer[1].detach(), terms)[0], terms[0].features)
        (wanted,) = torch.autograd.grad(fused(*layer, terms)[0], terms[0].features)
    assert expected
    assert torch.equal(found, wanted)


def test_without_gradients_none_is_computed() -> None:
    """One product per term and nothing else: 2 (8 + 5) K D operations, where training takes three times as many."""
    layer, terms = case()
    counts = []
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled), FlopCounterMode(display=False) as counter:
            total, _ = fused(*layer, terms)
        counts.append(counter.get_total_flops())
        assert total.requires_grad is enabled
    assert counts == [2 * 13 * K * D, 3 * 2 * 13 * K * D]


def test_no_row_costs_nothing() -> None:
    """A batch without masked patches: zero, with a gradient of zeros for the weight."""
    layer, terms = case()
    total, values = fused(*layer, terms[2:])
    of_v, of_g, of_features = torch.autograd.grad(total, [*layer, terms[2].features])
    assert (total.item(), values.tolist()) == (0.0, [0.0])
    assert torch.equal(of_v, torch.zeros(K, D, dtype=torch.float64))
    assert torch.equal(of_g, torch.zeros(K, 1, dtype=torch.float64))
    assert of_features.shape == (1, 0, D)


def test_temperature_zero_is_not_finite() -> None:
    """As a division by it gives, and no error of Python's."""
    layer, terms = case()
    assert not fused(*layer, [terms[0]._replace(temperature=0.0)])[0].isfinite()


def test_targets_and_weights_that_want_a_gradient_are_refused() -> None:
    """They would silently get none."""
    layer, terms = case()
    for field in ("targets", "weights"):
        wanting = terms[1]._replace(**{field: getattr(terms[1], field).clone().requires_grad_()})
        with pytest.raises(ValueError, match="require a gradient, which only kernels=official_order gives"):
            fused(*layer, [wanting])


@pytest.mark.parametrize(
    ("features", "targets", "weights"),
    [((5, D), (5, K), None), ((1, 5, D), (4, K), None), ((1, 5, 2), (5, K), None), ((1, 5, D), (5, K), (4,))],
)
def test_shapes_that_do_not_fit_are_named(
    features: tuple[int, ...], targets: tuple[int, ...], weights: tuple[int, ...] | None
) -> None:
    """Broadcasting would give a number, and a wrong one."""
    term = CrossEntropyTerm(torch.ones(features), torch.ones(targets), 0.1, 1.0)
    with pytest.raises(ValueError, match=r"expected \(n, B, d\), \(B, K\), \(B,\) or None, and \(K, d\)"):
        fused(
            torch.ones(K, D),
            torch.ones(K, 1),
            [term._replace(weights=None if weights is None else torch.ones(weights))],
        )


class Largest(TorchDispatchMode):
    """Notes the most elements of any storage that an operation makes; views make none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in known:
            self.elements = max(self.elements, result.untyped_storage().nbytes() // result.element_size())
        return result


def test_logits_are_never_held_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 rows of 512 prototypes: of 8 rows at a time, nothing is larger than these, forward and backward."""
    monkeypatch.setitem(linear_cross_entropy.HELD_ELEMENTS, "cpu", 8 * 512)
    layer = torch.randn(512, 4, requires_grad=True), torch.ones(512, 1, requires_grad=True)
    features = torch.randn(1, 64, 4, requires_grad=True)
    targets = torch.softmax(torch.randn(64, 512), -1)
    with Largest() as largest:
        fused(*layer, [CrossEntropyTerm(features, targets, 0.1, 1.0)])[0].backward()
    assert 8 * 512 <= largest.elements < 10 * 512


@pytest.mark.parametrize("device", ["meta", "fake"])
def test_shapes_without_numbers(device: str) -> None:
    """On meta and fake tensors total and gradients have shape and type, and nothing is computed."""

    def check(device: str) -> None:
        v, g = (torch.empty(K, n, device=device, requires_grad=True) for n in (D, 1))
        features = torch.empty(2, 4, D, device=device, requires_grad=True)
        total, values = fused(v, g, [CrossEntropyTerm(features, torch.empty(4, K, device=device), 0.1, 1.0)])
        total.backward()
        assert (total.shape, values.shape) == ((), (1,))
        for tensor in (v, g, features):
            assert tensor.grad is not None
            assert tensor.grad.shape == tensor.shape

    if device == "meta":
        check("meta")
        return
    with FakeTensorMode():
        check("cpu")
