from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from port.kernels import KERNELS
from port.losses import iBOTPatchLoss
from port.losses.cross_entropy import first_rows


@pytest.fixture(params=KERNELS, autouse=True, scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test is of both forms: `iBOTPatchLoss(K)` is built in one of them."""
    with pytest.MonkeyPatch.context() as patch:
        defaults = iBOTPatchLoss.__init__.__kwdefaults__
        assert defaults is not None
        patch.setitem(defaults, "kernels", request.param)
        assert iBOTPatchLoss(2).fast is (request.param == "fast")
        yield request.param


# Two of three rows are masked: one patch in row 0, two in row 2.
MASKS = torch.tensor([[True, False], [False, False], [True, True]])
WEIGHTS = torch.tensor([1.0, 0.5, 0.5])


def pair(n_rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return student logits and teacher probabilities (n_rows, 4)."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(n_rows, 4, generator=generator)
    return student, torch.softmax(torch.randn(n_rows, 4, generator=generator), -1)


def test_unmasked_rows_count_in_the_denominator() -> None:
    """Q16: a uniform student costs log K per masked row; two of three rows give 2/3 log K."""
    _, teacher = pair(3)
    loss = iBOTPatchLoss(4).forward_masked(torch.zeros(3, 4), teacher, MASKS, 3, WEIGHTS)
    assert loss.item() == pytest.approx(2 / 3 * math.log(4), rel=1e-6)


def test_each_masked_row_weighs_the_same() -> None:
    """The row with one patch counts like the row with two: (a + (b + c) / 2) / 3."""
    student, teacher = pair(3)
    a, b, c = -(teacher * torch.log_softmax(student / 0.1, -1)).sum(-1)
    loss = iBOTPatchLoss(4).forward_masked(student, teacher, MASKS, 3, WEIGHTS)
    torch.testing.assert_close(loss, (a + (b + c) / 2) / 3)


def test_weights_are_computed_where_none_are_given() -> None:
    """1 / masked patches in the same row, as collate computes it."""
    student, teacher = pair(3)
    loss = iBOTPatchLoss(4)
    assert torch.equal(
        loss.forward_masked(student, teacher, MASKS), loss.forward_masked(student, teacher, MASKS, 3, WEIGHTS)
    )


def test_padded_rows_are_ignored() -> None:
    """Rows after the first n_masked_patches have no part in value and gradient."""
    student, teacher = pair(5)
    student.requires_grad_()
    loss = iBOTPatchLoss(4)
    padded = loss.forward_masked(student, teacher, MASKS, 3, WEIGHTS)
    assert torch.equal(padded, loss.forward_masked(student[:3], teacher[:3], MASKS, 3, WEIGHTS))
    (gradient,) = torch.autograd.grad(padded, student)
    assert gradient[:3].any(dim=1).all()
    assert not gradient[3:].any()


def test_all_rows_are_not_sliced() -> None:
    """Where the first rows are all of them the tensor itself is taken; a slice's gradient would be a copy."""
    student, _ = pair(5)
    assert first_rows(student, 5) is first_rows(student, None) is student
    assert torch.equal(first_rows(student, 3), student[:3])
    student.requires_grad_()
    loss = iBOTPatchLoss(4, kernels="fast").forward_masked(student, pair(5)[1], torch.ones(1, 5, dtype=torch.bool), 5)
    nodes, walk = set(), [loss.grad_fn]
    while walk:
        node = walk.pop()
        if node is not None:
            nodes.add(node.name())
            walk += [inner for inner, _ in node.next_functions]
    assert not any("Slice" in name for name in nodes), nodes


def test_dense_and_gathered_patches_agree() -> None:
    """`forward` over all patches divides alike: rows without masks give 0."""
    student, teacher = pair(6)
    flat = MASKS.flatten()
    loss = iBOTPatchLoss(4)
    dense = loss(student.view(3, 2, 4), teacher.view(3, 2, 4), MASKS)
    torch.testing.assert_close(dense, loss.forward_masked(student[flat], teacher[flat], MASKS))


def test_the_gradient_is_weighted_student_minus_teacher() -> None:
    """The derivative by a logit is w (softmax(s / 0.1) - t) / (0.1 * rows)."""
    student, teacher = pair(3)
    student.requires_grad_()
    loss = iBOTPatchLoss(4).forward_masked(student, teacher, MASKS, 3, WEIGHTS)
    (gradient,) = torch.autograd.grad(loss, student)
    expected = WEIGHTS[:, None] * (torch.softmax(student.detach() / 0.1, -1) - teacher) / (0.1 * 3)
    torch.testing.assert_close(gradient, expected)


def test_both_forms_agree() -> None:
    """Value and gradient, padded rows and weights of its own making included, to rounding in float64."""
    student, teacher = (x.double() for x in pair(5))
    student.requires_grad_()
    for options in ((3, WEIGHTS), (3, None)):
        values = [iBOTPatchLoss(4, kernels=k).forward_masked(student, teacher, MASKS, *options) for k in KERNELS]
        torch.testing.assert_close(values[1], values[0], rtol=1e-14, atol=1e-14)
        gradients = [torch.autograd.grad(value, student)[0] for value in values]
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-13, atol=1e-14)


def test_no_masked_patch_costs_nothing() -> None:
    """An empty selection is 0, not NaN."""
    empty = torch.zeros(0, 4)
    loss = iBOTPatchLoss(4).forward_masked(empty, empty, torch.zeros(2, 3, dtype=torch.bool), 0, torch.zeros(0))
    assert loss.item() == 0.0


def test_sinkhorn_leaves_the_count_alone() -> None:
    """Q11: the batch's tensor is not reduced in place, and no process group is needed."""
    n_masked_patches = torch.tensor([5])
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assigned = iBOTPatchLoss(4).sinkhorn_knopp_teacher(x, 0.5, n_masked_patches)
    torch.testing.assert_close(assigned.sum(1), torch.ones(5))
    assert n_masked_patches.tolist() == [5]


def test_the_centre_is_the_mean_over_patches() -> None:
    """(1, M, K) of two patches at 0 and 10 moves the centre by a tenth of 5."""
    loss = iBOTPatchLoss(1)
    loss.update_center(torch.tensor([[[0.0], [10.0]]]))
    loss.apply_center_update()
    torch.testing.assert_close(loss.center, torch.tensor([[[0.5]]]))
