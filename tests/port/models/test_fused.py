from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from port.models import fused
from port.models.fused import norm_linear, scaled_linear, split_heads

DOUBLE = torch.float64
WIDTHS = (6, 10)


def _layers(bias: bool = True, dtype: torch.dtype = DOUBLE) -> tuple[nn.LayerNorm, nn.Linear, nn.Parameter]:
    """A norm over 6, a linear from 6 to 10 and a gamma of 10, none of them near its initial values."""
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(WIDTHS[0], eps=1e-6), nn.Linear(*WIDTHS, bias=bias)
    with torch.no_grad():
        for parameter in (*norm.parameters(), *linear.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return norm.to(dtype), linear.to(dtype), nn.Parameter(torch.randn(WIDTHS[1]).to(dtype))


def _x(tokens: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, WIDTHS[0], generator=generator, dtype=DOUBLE).to(dtype).requires_grad_()


def _plain(inputs: Sequence[Tensor], linear: nn.Linear, gamma: Tensor | None, gelu: bool) -> Tensor:
    """Torch's own layers, one after another."""
    y: Tensor = linear(torch.cat([functional.gelu(x) if gelu else x for x in inputs]))
    return y if gamma is None else y * gamma


def _same(found: Tensor, expected: Tensor, leaves: Sequence[Tensor], rtol: float = 1e-12) -> None:
    """Values, dtypes and all gradients agree, for an upstream gradient that differs by element."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)
    upstream = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view(found.shape)
    gradients = (torch.autograd.grad(y, list(leaves), upstream) for y in (found, expected))
    for gradient, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=rtol, atol=rtol)


@pytest.fixture(params=[1, 3, 512])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one token, of a few, and of all."""
    monkeypatch.setattr(fused, "CHUNK_ROWS", request.param)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_norm_linear_is_a_norm_and_a_linear(bias: bool, tokens: int) -> None:
    """Values and gradients of input, norm and linear; no token at all gives zeros."""
    norm, linear, _ = _layers(bias)
    x = _x(tokens)
    _same(norm_linear(x, norm, linear), linear(norm(x)), [x, *norm.parameters(), *linear.parameters()])


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("tokens", [[7], [4, 1, 5], [0, 4], [0]])
def test_scaled_linear_is_gelu_linear_and_scale(bias: bool, scaled: bool, gelu: bool, tokens: list[int]) -> None:
    """Values and gradients, of several inputs end to end, with and without each part."""
    _, linear, factors = _layers(bias)
    gamma = factors if scaled else None
    inputs = [_x(n, seed) for seed, n in enumerate(tokens)]
    leaves = [*inputs, *linear.parameters(), *([factors] if scaled else [])]
    _same(scaled_linear(inputs, linear, gamma, gelu=gelu), _plain(inputs, linear, gamma, gelu), leaves)


def test_a_gamma_of_zero_has_a_gradient() -> None:
    """The weight's is zero, gamma's is not: nothing is divided by gamma."""
    _, linear, _ = _layers()
    gamma = nn.Parameter(torch.zeros(WIDTHS[1], dtype=DOUBLE))
    x = _x(5)
    y = scaled_linear([x], linear, gamma, gelu=True)
    _same(y, _plain([x], linear, gamma, True), [x, *linear.parameters(), gamma])
    (gradient,) = torch.autograd.grad(scaled_linear([x], linear, gamma).sum(), gamma)
    torch.testing.assert_close(gradient, linear(x).sum(0), rtol=1e-12, atol=1e-12)


CALLS: dict[str, Callable[[Tensor, nn.LayerNorm, nn.Linear, Tensor], Tensor]] = {
    "norm_linear": lambda x, norm, linear, gamma: norm_linear(x, norm, linear),
    "scaled_linear": lambda x, norm, linear, gamma: scaled_linear([x], linear, gamma),
    "gelu": lambda x, norm, linear, gamma: scaled_linear([x], linear, gamma, gelu=True),
}
PLAIN: dict[str, Callable[[Tensor, nn.LayerNorm, nn.Linear, Tensor], Tensor]] = {
    "norm_linear": lambda x, norm, linear, gamma: linear(norm(x)),
    "scaled_linear": lambda x, norm, linear, gamma: linear(x) * gamma,
    "gelu": lambda x, norm, linear, gamma: linear(functional.gelu(x)) * gamma,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("trained", range(6))
def test_each_gradient_alone(name: str, trained: int) -> None:
    """One of input, norm (2), linear (2) and gamma needs a gradient: it is the plain layers', the others have none."""
    norm, linear, gamma = _layers()
    leaves = [_x(4), *norm.parameters(), *linear.parameters(), gamma]
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(i == trained)
    found, expected = (calls[name](leaves[0], norm, linear, gamma) for calls in (CALLS, PLAIN))
    assert found.requires_grad == expected.requires_grad
    if expected.requires_grad:
        _same(found, expected, [leaves[trained]])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("frozen", [True, False])
def test_nothing_is_kept_where_nothing_is_learned(name: str, frozen: bool) -> None:
    """Frozen parameters and input, or no_grad: no tensor is saved."""
    norm, linear, gamma = _layers()
    x = _x(4)
    if frozen:
        for leaf in (x, *norm.parameters(), *linear.parameters(), gamma):
            leaf.requires_grad_(False)
    saved: list[Tensor] = []
    with torch.set_grad_enabled(frozen), torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: x):
        y = CALLS[name](x, norm, linear, gamma)
    assert y.grad_fn is None
    assert not saved
    torch.testing.assert_close(y, PLAIN[name](x, norm, linear, gamma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "numbers"), [("norm_linear", 6 + 2), ("scaled_linear", 6), ("gelu", 6)])
def test_what_is_kept_is_the_input(name: str, numbers: int) -> None:
    """Per token: the input, and a norm's mean and deviation; else nothing but parameters."""
    norm, linear, gamma = _layers()
    known = {t.data_ptr() for t in (*norm.parameters(), *linear.parameters(), gamma)}
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        CALLS[name](_x(11), norm, linear, gamma)
    assert sum(t.numel() for t in saved if t.data_ptr() not in known) == 11 * numbers


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_has_the_dtypes_of_the_layers(name: str, dtype: torch.dtype) -> None:
    """The output's dtype is the plain layers', and values and gradients are theirs but for half precision's rounding.

    Gradients have the dtypes of their leaves, which is single precision.
    """
    norm, linear, gamma = _layers(dtype=torch.float32)
    x = _x(9, dtype=torch.float32)
    leaves = [x, *norm.parameters(), *linear.parameters(), gamma]
    results = []
    for calls in (CALLS, PLAIN):
        with torch.autocast("cpu", dtype=dtype):
            y = calls[name](x, norm, linear, gamma)
        results.append((y, torch.autograd.grad(y.float().square().sum(), leaves, allow_unused=True)))
    (y, gradients), (expected, wanted) = results
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert (gradient is None) == (other is None)
        if gradient is not None and other is not None:
            assert gradient.dtype == other.dtype == torch.float32
            torch.testing.assert_close(gradient, other, rtol=0.05, atol=0.05 * other.abs().max().item())


def test_a_small_gamma_survives_half_precision() -> None:
    """1e-6 times a weight of 0.01 is below the least of float16, and still reaches output and gradients."""
    _, linear, _ = _layers(dtype=torch.float32)
    with torch.no_grad():
        linear.weight.fill_(0.01)
    gamma = nn.Parameter(torch.full((WIDTHS[1],), 1e-6))
    x = torch.ones(1, WIDTHS[0])
    with torch.autocast("cpu", dtype=torch.float16):
        y = scaled_linear([x], linear, gamma)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y[0], 1e-6 * (0.06 + linear.bias), rtol=2e-3, atol=0)


def test_autocast_leaves_double_precision_alone() -> None:
    """As it does with the layers."""
    norm, linear, gamma = _layers()
    x = _x(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, call in CALLS.items():
            found = call(x, norm, linear, gamma)
            torch.testing.assert_close(found, PLAIN[name](x, norm, linear, gamma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CALLS)
def test_a_backward_pass_under_autocast_is_the_same(name: str) -> None:
    """Bit for bit: single precision stays single where only the backward pass is under autocast."""
    norm, linear, gamma = _layers(dtype=torch.float32)
    x = _x(5, dtype=torch.float32)
    y = CALLS[name](x, norm, linear, gamma)
    (expected,) = torch.autograd.grad(y.sum(), linear.weight, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = torch.autograd.grad(y.sum(), linear.weight)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", CALLS)
def test_a_second_derivative_is_an_error(name: str) -> None:
    """Nobody is given a zero for it, and the message says what has one."""
    norm, linear, gamma = _layers()
    x = _x(3)
    y = CALLS[name](x, norm, linear, gamma)
    with pytest.raises(RuntimeError, match="no second derivative; kernels=official_order has"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_a_graph_may_be_walked_twice() -> None:
    """With `retain_graph` the second gradient is the first: nothing that is kept is written to."""
    norm, linear, gamma = _layers()
    x = _x(5)
    for call in CALLS.values():
        y = call(x, norm, linear, gamma).sin().sum()
        first, second = (torch.autograd.grad(y, [x, linear.weight], retain_graph=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _plain_heads(qkv: Tensor, shapes: Sequence[tuple[int, int]], heads: int) -> list[Any]:
    parts = qkv.split([b * n for b, n in shapes])
    return [part.reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4) for part, (b, n) in zip(parts, shapes, strict=True)]


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (1, 4), (3, 1)], [(2, 2), (2, 2)]])
def test_heads_are_cut_as_official_cuts_them(shapes: list[tuple[int, int]]) -> None:
    """Queries, keys and values of each head and sequence, and their gradient, in which an unused one is zero."""
    tokens, heads, width = sum(b * n for b, n in shapes), 2, 5
    qkv = torch.randn(tokens, 3 * heads * width, dtype=DOUBLE, requires_grad=True)
    found, expected = split_heads(qkv, shapes, heads), _plain_heads(qkv, shapes, heads)
    for views, wanted, (b, n) in zip(found, expected, shapes, strict=True):
        assert [tuple(view.shape) for view in views] == 3 * [(b, heads, n, width)]
        assert all(torch.equal(view, other) for view, other in zip(views, wanted, strict=True))
    products = ((q * k.sin()).sum() for parts in (found, expected) for q, k, _ in parts[:1])
    gradients = [torch.autograd.grad(product, qkv)[0] for product in products]
    assert torch.equal(*gradients)
    assert not gradients[0][:, 2 * heads * width :].any()


def test_layers_are_left_as_they_are() -> None:
    """No function changes a parameter or an input."""
    norm, linear, gamma = _layers()
    x = _x(5)
    before = copy.deepcopy([x, *norm.parameters(), *linear.parameters(), gamma])
    for call in CALLS.values():
        call(x, norm, linear, gamma).sum().backward()
    after = [x, *norm.parameters(), *linear.parameters(), gamma]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_products_are_counted() -> None:
    """Torch's counter sees all of a linear's three products, two of which a backward pass makes."""
    linear = nn.Linear(6, 5).double()
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        scaled_linear([x], linear, gelu=True).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 7 * 6 * 5
