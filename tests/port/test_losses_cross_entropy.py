from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from port.losses import cross_entropy
from port.losses.cross_entropy import row_chunks, soft_cross_entropy

TEMPERATURE = 0.1


@pytest.fixture(params=[1, 5, 2**18])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one row, of a few, and of all."""
    monkeypatch.setitem(cross_entropy.CHUNK_ELEMENTS, "cpu", request.param)


def case(
    n_students: int = 3, n_rows: int = 4, width: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (n, B, K), targets (B, K) whose rows sum to anything, and weights (B,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_students, n_rows, width, generator=generator, dtype=torch.float64)
    targets = torch.rand(n_rows, width, generator=generator, dtype=torch.float64)
    weights = torch.rand(n_rows, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), targets.to(dtype), weights.to(dtype)


def by_log_softmax(logits: Tensor, targets: Tensor, weights: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """The definition."""
    rows = -(targets * torch.log_softmax(logits / TEMPERATURE, -1)).sum(-1)
    return (rows if weights is None else rows * weights).sum() * scale


def test_one_row_by_hand() -> None:
    """Logits (0, 0.1 * log 3) are probabilities (1/4, 3/4); targets (1, 2) pay log 4 + 2 log 4/3, weighed by 5."""
    logits = torch.tensor([[[0.0, 0.1 * math.log(3)]]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    loss = soft_cross_entropy(logits, targets, 0.1, weights=torch.tensor([5.0]))
    assert loss.item() == pytest.approx(5 * (math.log(4) + 2 * math.log(4 / 3)), rel=1e-12)
    loss.backward()
    # 5 / 0.1 * (3 * softmax - t)
    torch.testing.assert_close(logits.grad, torch.tensor([[[50 * -0.25, 50 * 0.25]]], dtype=torch.float64))


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_definition_in_chunks_of_any_size(weighted: bool) -> None:
    """Value and gradient in float64, to rounding, whatever is upstream."""
    logits, targets, weights = case()
    given = weights if weighted else None
    loss = soft_cross_entropy(logits, targets, TEMPERATURE, weights=given, scale=0.3)
    expected = by_log_softmax(logits, targets, given, 0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)
    found, wanted = (torch.autograd.grad(torch.exp(value / 100), logits)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("chunk")
def test_the_gradient_is_the_derivative() -> None:
    """Finite differences, with and without weights."""
    logits, targets, weights = case(2, 3, 4)
    for given_weights in (None, weights):

        def loss(x: Tensor, w: Tensor | None = given_weights) -> Tensor:
            return soft_cross_entropy(x, targets, 0.7, weights=w, scale=0.5)

        assert torch.autograd.gradcheck(loss, (logits,))


@given(seed=st.integers(0, 1000), n_students=st.integers(1, 3), n_rows=st.integers(1, 5), size=st.floats(0.01, 300))
@settings(max_examples=40, deadline=None)
def test_logits_of_any_size(seed: int, n_students: int, n_rows: int, size: float) -> None:
    """Logits of thousands of temperatures neither overflow nor lose the least loss."""
    logits, targets, _ = case(n_students, n_rows, 6, seed)
    scaled = (logits.detach() * size).requires_grad_()
    loss, expected = soft_cross_entropy(scaled, targets, TEMPERATURE), by_log_softmax(scaled, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-9)
    found, wanted = (torch.autograd.grad(value, scaled)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_single(dtype: torch.dtype) -> None:
    """Rounded logits cost what they cost in float32; the gradient is rounded once, to the logits' type."""
    logits, targets, weights = case(dtype=dtype)
    wide = logits.detach().float().requires_grad_()
    for t in (targets, targets.float()):
        loss = soft_cross_entropy(logits, t, TEMPERATURE, weights=weights.float())
        expected = soft_cross_entropy(wide, t.float(), TEMPERATURE, weights=weights.float())
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected)
        (gradient,), (wanted,) = (torch.autograd.grad(v, x) for v, x in ((loss, logits), (expected, wide)))
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, wanted.to(dtype))


def test_double_precision_stays_double() -> None:
    """Nothing is narrowed on the way: 1e-9 beside 1 is still there."""
    logits, targets, _ = case()
    moved = soft_cross_entropy(logits.detach() + torch.tensor([1e-9, 0, 0, 0, 0]), targets, TEMPERATURE)
    still = soft_cross_entropy(logits, targets, TEMPERATURE)
    assert still.dtype == moved.dtype == torch.float64
    (gradient,) = torch.autograd.grad(still, logits)
    assert (moved - still).item() == pytest.approx(1e-9 * gradient[..., 0].sum().item(), rel=1e-4)


def test_autocast_changes_no_bit() -> None:
    """Under bfloat16 autocast, forward and backward are those of the logits as they are."""
    logits, targets, weights = case(dtype=torch.float32)
    plain = soft_cross_entropy(logits, targets, TEMPERATURE, weights=weights)
    (expected,) = torch.autograd.grad(plain, logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = soft_cross_entropy(logits, targets, TEMPERATURE, weights=weights)
        (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(loss, plain)
    assert torch.equal(gradient, expected)


def test_a_graph_may_be_walked_twice() -> None:
    """With `retain_graph` the second gradient is the first, although the first was made where exponentials stood."""
    logits, targets, weights = case()
    loss = soft_cross_entropy(logits, targets, TEMPERATURE, weights=weights)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    before = first.clone()
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.equal(first, before)
    torch.testing.assert_close(second, first, rtol=1e-14, atol=1e-14)


def test_a_second_derivative_is_an_error() -> None:
    """There is none, and nobody is given a zero for it."""
    logits, targets, _ = case()
    loss = soft_cross_entropy(logits, targets, TEMPERATURE)
    with pytest.raises(RuntimeError, match="no second derivative; kernels=official_order has"):
        torch.autograd.grad(loss, logits, create_graph=True)


def test_targets_and_weights_that_want_a_gradient_are_refused() -> None:
    """They would silently get none."""
    logits, targets, weights = case()
    for wanting in ((targets.requires_grad_(), weights), (targets.detach(), weights.requires_grad_())):
        with pytest.raises(ValueError, match="require a gradient, which only kernels=official_order gives"):
            soft_cross_entropy(logits, wanting[0], TEMPERATURE, weights=wanting[1])


@pytest.mark.parametrize(
    ("logits", "targets", "weights"),
    [((4, 5), (4, 5), None), ((3, 4, 5), (3, 4, 5), None), ((3, 4, 5), (4, 6), None), ((3, 4, 5), (4, 5), (3,))],
)
def test_shapes_that_do_not_fit_are_named(
    logits: tuple[int, ...], targets: tuple[int, ...], weights: tuple[int, ...] | None
) -> None:
    """Broadcasting would give a number, and a wrong one."""
    given_weights = None if weights is None else torch.ones(weights)
    with pytest.raises(ValueError, match=r"expected \(n, B, K\), \(B, K\) and \(B,\) or None"):
        soft_cross_entropy(torch.ones(logits), torch.ones(targets), TEMPERATURE, weights=given_weights)


def test_no_row_costs_nothing() -> None:
    """A batch without masked patches: zero, with an empty gradient."""
    logits = torch.zeros(1, 0, 5, requires_grad=True)
    loss = soft_cross_entropy(logits, torch.zeros(0, 5), TEMPERATURE, weights=torch.zeros(0))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (loss.item(), gradient.shape) == (0.0, (1, 0, 5))


def test_chunks_cover_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, at least one row each, the last one shorter; other devices have larger ones."""
    monkeypatch.setitem(cross_entropy.CHUNK_ELEMENTS, "cpu", 10)
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert [(c.start, c.stop) for c in row_chunks(7, 4, cpu)] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert [(c.start, c.stop) for c in row_chunks(2, 99, cpu)] == [(0, 1), (1, 2)]
    assert [(c.start, c.stop) for c in row_chunks(2, 99, meta)] == [(0, 2)]
    assert list(row_chunks(0, 4, cpu)) == list(row_chunks(0, 0, cpu)) == []


class Sizes(TorchDispatchMode):
    """Notes the elements of every tensor that an operation makes, views and what is written in place left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.made: list[int] = []

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> object:
        assert callable(func)
        options = dict(kwargs) if isinstance(kwargs, dict) else {}
        known = {t.untyped_storage().data_ptr() for t in (*args, *options.values()) if isinstance(t, Tensor)}
        result = func(*args, **options)
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in known:
            self.made.append(result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_the_logits_size_is_made_but_the_gradient(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Of 3 * 16 rows, chunks of 3 * 1 are made: one full tensor in forward and backward together."""
    monkeypatch.setitem(cross_entropy.CHUNK_ELEMENTS, "cpu", 3 * 64)
    logits, targets, _ = case(3, 16, 64, dtype=dtype)
    with Sizes() as sizes:
        soft_cross_entropy(logits, targets, TEMPERATURE).backward()
    assert sorted(sizes.made)[-1] == logits.numel()
    assert sorted(sizes.made)[-2] <= targets.numel()
    with torch.no_grad(), Sizes() as sizes:
        soft_cross_entropy(logits, targets, TEMPERATURE)
    assert max(sizes.made) <= targets.numel()


@pytest.mark.parametrize("make", [lambda: FakeTensorMode(allow_non_fake_inputs=False), None])
def test_shapes_without_numbers(make: Callable[[], FakeTensorMode] | None) -> None:
    """On fake and on meta tensors loss and gradient have shape and type, and nothing is computed."""

    def check(device: str) -> None:
        logits = torch.empty(2, 3, 5, device=device, requires_grad=True)
        loss = soft_cross_entropy(logits, torch.empty(3, 5, device=device), TEMPERATURE)
        loss.backward()
        assert loss.shape == ()
        assert logits.grad is not None
        assert (logits.grad.shape, logits.grad.dtype) == (logits.shape, torch.float32)

    if make is None:
        check("meta")
        return
    with make():
        check("cpu")
