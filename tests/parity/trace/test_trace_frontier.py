"""The frontier: where two computations begin to differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.trace.fingerprint import fingerprint
from parity.trace.frontier import frontier, index_of
from parity.trace.record import Operation, Recorder

Function = Callable[[Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, W, V = draw(6, 8), draw(8, 8, seed=1), draw(8, 8, seed=2)


def official(x: Tensor) -> Tensor:
    """A norm, a product, an activation, a residual, another product."""
    h = F.layer_norm(x, (8,), eps=1e-6)
    h = x + F.gelu(h @ W)
    return torch.softmax(h @ V, dim=-1)


def begins(yours: Function, theirs: Function = official) -> list[Operation]:
    """Return where `yours` begins to differ from `theirs`."""
    with Recorder() as reference:
        theirs(X.clone())
    with Recorder() as subject:
        result = yours(X.clone())
    return frontier(subject.operations, [fingerprint(result)], index_of(reference.operations))


def _eps(x: Tensor) -> Tensor:
    h = F.layer_norm(x, (8,), eps=1e-5)
    return torch.softmax((x + F.gelu(h @ W)) @ V, dim=-1)


def _tanh(x: Tensor) -> Tensor:
    h = F.layer_norm(x, (8,), eps=1e-6)
    return torch.softmax((x + F.gelu(h @ W, approximate="tanh")) @ V, dim=-1)


def _no_residual(x: Tensor) -> Tensor:
    h = F.layer_norm(x, (8,), eps=1e-6)
    return torch.softmax(F.gelu(h @ W) @ V, dim=-1)


def _transposed(x: Tensor) -> Tensor:
    h = F.layer_norm(x, (8,), eps=1e-6)
    return torch.softmax((x + F.gelu(h @ W.t())) @ V, dim=-1)


def _axis(x: Tensor) -> Tensor:
    h = F.layer_norm(x, (8,), eps=1e-6)
    return torch.softmax((x + F.gelu(h @ W)) @ V, dim=0)


@pytest.mark.parametrize(
    ("yours", "name", "scalar"),
    [
        (_eps, "native_layer_norm", ("eps", "1e-05")),
        (_tanh, "gelu", ("approximate", "tanh")),
        (_no_residual, "mm", None),
        (_transposed, "mm", None),
        (_axis, "_softmax", ("dim", "0")),
    ],
    ids=["eps", "tanh", "no residual", "transposed", "axis"],
)
def test_a_fault_is_the_only_operation_named(yours: Function, name: str, scalar: tuple[str, str] | None) -> None:
    """Nothing after it is accused, though everything after it differs."""
    (op,) = begins(yours)
    assert op.name == name
    assert scalar is None or scalar in op.scalars


def test_the_same_computation_has_no_frontier() -> None:
    """Official against itself."""
    assert begins(official) == []


def _rewritten(x: Tensor) -> Tensor:
    """The same by other operations: norm by hand, products of transposed matrices, log-sum-exp."""
    centred = x - x.mean(-1, keepdim=True)
    h = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    h = F.gelu((W.t() @ h.t()).t()) + x
    logits = torch.einsum("nd,de->ne", h, V)
    return (logits - logits.logsumexp(-1, keepdim=True)).exp()


def test_a_rewrite_that_comes_to_the_same_raises_nothing() -> None:
    """Its own operations are unknown to official, its result is not."""
    assert begins(_rewritten) == []


def test_a_fault_among_rewrites_is_named() -> None:
    """Rewrites before it come to official's tensors again, so that they are not accused."""

    def yours(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        h = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        h = F.gelu((W.t() @ h.t()).t()) + 1.01 * x
        return torch.softmax(torch.einsum("nd,de->ne", h, V), dim=-1)

    assert [op.name for op in begins(yours)] == ["mul"]


def test_two_independent_faults_are_both_named() -> None:
    """A fault whose inputs official has is named, whatever else is wrong beside it."""

    def two(x: Tensor) -> Tensor:
        return F.layer_norm(x, (8,), eps=1e-3) @ W + torch.relu(x @ V)

    def theirs(x: Tensor) -> Tensor:
        return F.layer_norm(x, (8,), eps=1e-6) @ W + torch.sigmoid(x @ V)

    assert [op.name for op in begins(two, theirs)] == ["native_layer_norm", "relu"]


def test_a_result_filled_by_parts_leads_to_the_faulty_part() -> None:
    """A tensor that no operation returned was written through views: the wrong part is found."""

    def theirs(x: Tensor) -> Tensor:
        return torch.cat((x.sin(), x.cos()))

    def yours(x: Tensor) -> Tensor:
        out = x.new_empty(12, 8)
        torch.sin(x, out=out[:6])
        torch.tan(x, out=out[6:])
        return out * 1

    assert [op.name for op in begins(yours, theirs)] == ["tan"]


def test_a_random_draw_that_differs_is_where_it_begins() -> None:
    """A draw has no inputs: where its outcome is not official's, it is named itself."""

    def drop(seed: int) -> Function:
        def run(x: Tensor) -> Tensor:
            torch.manual_seed(seed)
            return x[torch.randperm(len(x))[:3]].sum(0) @ W

        return run

    names = [op.name for op in begins(drop(1), drop(2))]
    assert set(names) <= {"randperm", "index", "slice"}
    assert names


def test_a_fault_in_the_backward_pass_is_named_there() -> None:
    """Where the forward pass agrees, an operation of the backward pass is to blame."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> Tensor:
            return dy * 1.5

    def gradient(function: Function) -> Function:
        def run(x: Tensor) -> Tensor:
            x = x.requires_grad_()
            y = function(F.gelu(x @ W)) @ V
            (found,) = torch.autograd.grad(y.sin().sum(), x)
            return found

        return run

    (op,) = begins(gradient(Scaled.apply), gradient(torch.clone))
    assert (op.name, op.backward) == ("mul", True)


def test_constants_that_a_rewrite_makes_are_not_accused() -> None:
    """A buffer of zeros has no inputs, and official may have none of that size."""

    def yours(x: Tensor) -> Tensor:
        out = torch.zeros(8, 6, dtype=torch.float64)
        out.add_(x.t())
        return (out.t() * 1.5).cos()

    assert [op.name for op in begins(yours, lambda x: (x * 1.25).cos())] == ["mul"]


def test_a_difference_that_vanishes_is_where_it_begins() -> None:
    """Zeros that an operation computed are its result like any other."""
    assert [op.name for op in begins(lambda x: (x - x + 0.1).log() @ W, lambda x: (x - V[:6] + 9).log() @ W)] == ["sub"]


def test_nothing_that_differs_has_no_frontier() -> None:
    """A result that official has is not traced back."""
    with Recorder() as recorder:
        y = X.sin()
    assert frontier(recorder.operations, [fingerprint(y)], index_of(recorder.operations)) == []
