from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity.oracle import Float64Oracle

# Not representable in float32: a neutralised down-cast must keep the last bits.
VALUE = 1.0 + 2.0**-40

CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "to dtype": lambda x: x.to(torch.float32),
    "to dtype by name": lambda x: x.to(dtype=torch.float16),
    "to device and dtype": lambda x: x.to("cpu", torch.float32),
    "to other": lambda x: x.to(torch.zeros(1)),
    "type": lambda x: x.type(torch.bfloat16),
    "type by name": lambda x: x.type(dtype=torch.float32),
    "type_as": lambda x: x.type_as(torch.zeros(1)),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
def test_each_way_to_narrow_is_neutralised_and_counted(cast: Callable[[Tensor], Tensor]) -> None:
    """A float64 tensor keeps its type and its last bits, and the request is counted once."""
    tensor = torch.full((3,), VALUE, dtype=torch.float64)
    assert cast(tensor).dtype is not torch.float64
    with Float64Oracle() as oracle:
        kept = cast(tensor)
    assert kept.dtype is torch.float64
    assert torch.equal(kept, tensor)
    assert oracle.down_casts == 1


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.softmax(x, -1, dtype=torch.float32),
        lambda x: F.log_softmax(x, dim=-1, dtype=torch.float32),
        lambda x: torch.sum(x, dtype=torch.float16),
        lambda x: torch.zeros_like(x, dtype=torch.float32),
        lambda x: x.new_ones(2, dtype=torch.bfloat16),
    ],
    ids=["softmax", "log_softmax", "sum", "zeros_like", "new_ones"],
)
def test_dtype_arguments_of_operations_are_widened(compute: Callable[[Tensor], Tensor]) -> None:
    """`dtype=` of an operation on float64 asks for float64 instead."""
    with Float64Oracle() as oracle:
        result = compute(torch.arange(3, dtype=torch.float64))
    assert result.dtype is torch.float64
    assert oracle.down_casts >= 1


def test_other_types_are_left_alone() -> None:
    """Float32 tensors, integers and requests that do not narrow pass through uncounted."""
    single, double = torch.ones(2), torch.ones(2, dtype=torch.float64)
    with Float64Oracle() as oracle:
        assert single.half().dtype is torch.float16
        assert single.to(torch.bfloat16).dtype is torch.bfloat16
        assert single.double().dtype is torch.float64
        assert double.long().dtype is torch.int64
        assert double.to(torch.bool).dtype is torch.bool
        assert double.to("cpu").dtype is torch.float64
        assert double.to(torch.float64).dtype is torch.float64
        assert double.type() == "torch.DoubleTensor"
        assert torch.softmax(single, -1, dtype=torch.float32).dtype is torch.float32
    assert oracle.down_casts == 0


def test_gradients_flow_through_a_neutralised_cast() -> None:
    """d/dx of (float(x) ** 2).sum() is 2 x, with all of x's bits."""
    x = torch.full((2,), VALUE, dtype=torch.float64, requires_grad=True)
    with Float64Oracle():
        (gradient,) = torch.autograd.grad((x.float() ** 2).sum(), x)
    assert torch.equal(gradient, 2 * x.detach())


def test_casts_inside_modules_are_seen() -> None:
    """A module that narrows its input, as official Sinkhorn does, returns float64 under the oracle."""

    class Narrowing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(x.float() / 0.07)

    x = torch.full((2,), VALUE, dtype=torch.float64)
    with Float64Oracle():
        inside = Narrowing()(x)
    assert torch.equal(inside, torch.exp(x / 0.07))


def test_the_oracle_ends_with_its_block() -> None:
    """Outside, a cast is a cast again."""
    with Float64Oracle():
        pass
    assert torch.ones(1, dtype=torch.float64).float().dtype is torch.float32
