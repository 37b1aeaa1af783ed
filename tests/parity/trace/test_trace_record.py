"""The recorder: every operation with its scalars, contents and place, and nothing changed by it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.trace.fingerprint import fingerprint
from parity.trace.record import Recorder


def draw(*shape: int) -> Tensor:
    """Return normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_an_operation_is_recorded_with_contents_and_scalars() -> None:
    """Its inputs as they were before, its output, and the arguments that are not at their default."""
    x, weight = draw(4, 8), draw(8)
    with Recorder() as recorder:
        y = F.layer_norm(x, (8,), weight, eps=1e-6)
    (op,) = [op for op in recorder.operations if op.name == "native_layer_norm"]
    assert op.inputs == (fingerprint(x), fingerprint(weight))
    assert op.outputs[0] == fingerprint(y)
    assert ("eps", "1e-06") in op.scalars
    assert not op.backward


def test_the_place_is_the_line_that_asked() -> None:
    """The innermost line outside torch and parity: here, in this test."""
    x = draw(3)
    with Recorder() as recorder:
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr] # CPython has frames
        torch.tanh(x)
    assert recorder.operations[-1].place == f"{__file__}:{line} in test_the_place_is_the_line_that_asked"


def test_a_backward_operation_has_the_place_of_its_forward() -> None:
    """What torch differentiates by itself is told where the function was called, not where `backward` was."""
    x = draw(3).requires_grad_()
    with Recorder() as recorder:
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr] # CPython has frames
        y = torch.tanh(x)
        y.sum().backward()
    (op,) = [op for op in recorder.operations if op.name == "tanh_backward"]
    assert op.backward
    assert op.place.startswith(f"{__file__}:{line} in ")


def test_a_hand_written_backward_has_its_own_place() -> None:
    """An autograd function's backward is Python: its own line is told."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            return dy * 2

    x = draw(3).requires_grad_()
    with Recorder() as recorder:
        Twice.apply(x).sum().backward()
    backward = [op for op in recorder.operations if op.name == "mul" and op.backward]
    assert backward[0].place.endswith(" in backward")


def test_what_is_written_in_place_is_an_output() -> None:
    """The content before is read and the one after is written, also of a list's members."""
    x, y = draw(3), draw(4)
    before = fingerprint(x)
    with Recorder() as recorder:
        x.mul_(2)
        torch._foreach_add_([x, y], 1.0)
    first, second = recorder.operations
    assert first.inputs[0] == before
    assert second.inputs == (first.outputs[0], fingerprint(draw(4)))
    assert second.outputs == (fingerprint(x), fingerprint(y))


def test_an_out_argument_is_not_read() -> None:
    """Memory that is only written to has no content that matters."""
    x, out = draw(3, 3), torch.full((3, 3), 7.0, dtype=torch.float64)
    with Recorder() as recorder:
        torch.mm(x, x, out=out)
    (op,) = [op for op in recorder.operations if op.name == "mm"]
    assert op.inputs == (fingerprint(x), fingerprint(x))
    assert op.outputs == (fingerprint(out),)


def test_writers_through_views_are_known() -> None:
    """A tensor that is filled by parts was made by the operations that wrote its parts."""
    out = torch.empty(4, 3, dtype=torch.float64)
    with Recorder() as recorder:
        out[:2].copy_(draw(2, 3))
        out[2:].copy_(draw(2, 3) * 5)
        out.exp()
    copies = [op.index for op in recorder.operations if op.name == "copy_"]
    assert len(copies) == 2
    assert recorder.operations[-1].writers == (tuple(copies),)


def test_recording_changes_no_bit_and_no_random_number() -> None:
    """Values, gradients and the generators are as without it."""

    def compute() -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        x = torch.randn(6, 5, requires_grad=True)
        y = F.gelu(F.dropout(x, 0.5) @ x.t())
        (gradient,) = torch.autograd.grad(y.sum(), x)
        return gradient, torch.rand(3)

    plain = compute()
    with Recorder() as recorder:
        watched = compute()
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert len(recorder.operations) > 8
