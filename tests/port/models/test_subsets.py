from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from port.models.subsets import Draw, add_to_subsets, rows_in_subset, take_subsets

DOUBLE = torch.float64


def _batches() -> list[Tensor]:
    """4 sequences of 3 tokens and 3 of 2."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 5), (3, 2, 5)]
    return [torch.randn(shape, generator=generator, dtype=DOUBLE).requires_grad_() for shape in shapes]


DRAWS: list[Draw] = [(torch.tensor([2, 0]), 2.0), (torch.tensor([1]), 3.0)]


def _by_hand(x_list: Sequence[Tensor]) -> list[Tensor]:
    """Sines of the drawn samples, scaled and added."""
    first, second = x_list
    return [
        torch.stack([first[0] + 2 * first[0].sin(), first[1], first[2] + 2 * first[2].sin(), first[3]]),
        torch.stack([second[0], second[1] + 3 * second[1].sin(), second[2]]),
    ]


def test_a_row_holds_the_drawn_samples_in_their_order() -> None:
    """The subset of each batch, end to end; the batches come back as they are."""
    x_list = _batches()
    row, same = take_subsets(x_list, DRAWS)
    expected = torch.cat([x_list[0][2], x_list[0][0], x_list[1][1]])
    assert torch.equal(row, expected)
    assert all(torch.equal(a, b) for a, b in zip(same, x_list, strict=True))


def test_taking_and_adding_is_a_residual_of_a_subset() -> None:
    """Values and gradients are those of single samples, for an upstream gradient that differs by element."""
    x_list = _batches()
    row, same = take_subsets(x_list, DRAWS)
    results = []
    for outputs in (add_to_subsets(same, DRAWS, row.sin()), _by_hand(x_list)):
        upstream = [torch.linspace(-1, 2, y.numel(), dtype=DOUBLE).view(y.shape) for y in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, x_list, upstream)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("used", ["row", "same"])
def test_one_use_alone_has_its_gradient(used: str) -> None:
    """The batches, or the row: what is not used adds nothing."""
    x_list = _batches()
    row, same = take_subsets(x_list, DRAWS)
    total = row.sum() if used == "row" else sum(x.sum() for x in same)
    assert isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, x_list)
    drawn = [torch.tensor([1.0, 0, 1, 0]), torch.tensor([0.0, 1, 0])]
    for gradient, ones in zip(gradients, drawn, strict=True):
        expected = ones if used == "row" else torch.ones_like(ones)
        assert torch.equal(gradient, expected.to(DOUBLE).view(-1, 1, 1).expand_as(gradient))


def test_residuals_take_the_dtype_of_the_batches() -> None:
    """Half precision is added in single, and its gradient is half again."""
    x = torch.ones(2, 1, 3)
    residual = torch.full((1, 3), 2.0**-10, dtype=torch.bfloat16, requires_grad=True)
    (y,) = add_to_subsets([x], [(torch.tensor([1]), 2.0)], residual)
    assert y.dtype == torch.float32
    assert torch.equal(y[:, 0], torch.tensor([[1.0] * 3, [1 + 2.0**-9] * 3]))
    y.sum().backward()
    assert residual.grad is not None
    assert residual.grad.dtype == torch.bfloat16
    assert residual.grad.tolist() == [[2.0] * 3]


def test_batches_are_not_written_to() -> None:
    """A residual is added to new tensors, and a leaf keeps its values."""
    x_list = _batches()
    before = [x.detach().clone() for x in x_list]
    row, same = take_subsets(x_list, DRAWS)
    add_to_subsets(same, DRAWS, row)
    assert all(torch.equal(a, b) for a, b in zip(before, x_list, strict=True))


def test_a_second_derivative_is_an_error() -> None:
    """Of either step, as of the layers."""
    x_list = _batches()
    row, same = take_subsets(x_list, DRAWS)
    leaf = torch.zeros_like(row).requires_grad_()
    for total, by in ((row.sum(), x_list), (add_to_subsets(same, DRAWS, leaf)[0].sum(), [leaf])):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(total, by, create_graph=True)


def test_tokens_are_found_in_a_subset() -> None:
    """Of 4 samples of 3 tokens, 2 and 0 were drawn in this order: their tokens are 0 to 2 and 3 to 5 of the subset."""
    rows = torch.tensor([0, 2, 4, 6, 8, 8, 11])
    places, factors = rows_in_subset(rows, (4, 3, 5), DRAWS[0], DOUBLE)
    drawn = [True, True, False, True, True, True, False]
    assert factors.dtype == DOUBLE
    assert factors.tolist() == [2.0 if d else 0.0 for d in drawn]
    assert places[torch.tensor(drawn)].tolist() == [3, 5, 0, 2, 2]
    assert all(0 <= place < 6 for place in places.tolist())


def test_no_token_is_found_nowhere() -> None:
    """Empty rows give empty places and factors."""
    places, factors = rows_in_subset(torch.zeros(0, dtype=torch.int64), (4, 3, 5), DRAWS[0], torch.float32)
    assert (places.shape, factors.shape, factors.dtype) == ((0,), (0,), torch.float32)


def test_finding_tokens_waits_for_no_device() -> None:
    """On the meta device, which has no values to wait for, places and factors have their shapes."""
    meta = torch.device("meta")
    rows, brange = (torch.empty(n, dtype=torch.int64, device=meta) for n in (7, 2))
    places, factors = rows_in_subset(rows, (4, 3, 5), (brange, 2.0), DOUBLE)
    assert places.shape == factors.shape == (7,)
