from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from port.kernels import KERNELS
from port.losses import DINOLoss


@pytest.fixture(params=KERNELS, autouse=True, scope="module")
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test is of both forms: `DINOLoss(K)` is built in one of them."""
    with pytest.MonkeyPatch.context() as patch:
        defaults = DINOLoss.__init__.__kwdefaults__
        assert defaults is not None
        patch.setitem(defaults, "kernels", request.param)
        assert DINOLoss(2).fast is (request.param == "fast")
        yield request.param


def test_one_pair_by_hand() -> None:
    """Logits (0, 0.1 * log 3) at temperature 0.1 are probabilities (1/4, 3/4)."""
    student = torch.tensor([[0.0, 0.1 * math.log(3.0)]], dtype=torch.float64)
    teacher = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    expected = -0.5 * (math.log(0.25) + math.log(0.75))
    assert DINOLoss(2)([student], [teacher]).item() == pytest.approx(expected, rel=1e-12)


def test_all_pairs_are_summed_and_samples_averaged() -> None:
    """3 students and 2 teachers are 6 pairs; uniform students cost log K against any teacher."""
    students = [torch.zeros(4, 5)] * 3
    teachers = [torch.softmax(torch.randn(4, 5), -1) for _ in range(2)]
    assert DINOLoss(5)(students, teachers).item() == pytest.approx(6 * math.log(5), rel=1e-6)


def test_a_tensor_of_teachers_is_a_list_of_them() -> None:
    """The training step passes (2, B, K), and one crop after the other is meant."""
    student, teachers = torch.randn(4, 5), torch.softmax(torch.randn(2, 4, 5), -1)
    loss = DINOLoss(5)
    assert torch.equal(loss([student], teachers), loss([student], [teachers[0], teachers[1]]))


def test_a_tensor_of_students_is_a_list_of_them() -> None:
    """Local crops come as (n, B, K), which is not copied; values and gradients are the list's."""
    students = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    teachers = torch.softmax(torch.randn(2, 4, 5, dtype=torch.float64), -1)
    loss = DINOLoss(5)
    values = [loss(given, teachers) for given in (students, list(students), students.flatten(0, 1).chunk(3))]
    gradients = [torch.autograd.grad(value, students)[0] for value in values]
    for value, gradient in zip(values[1:], gradients[1:], strict=True):
        torch.testing.assert_close(value, values[0])
        torch.testing.assert_close(gradient, gradients[0])


def test_both_forms_agree() -> None:
    """Eight students and two teachers, value and gradient, to rounding in float64."""
    students = torch.randn(8, 4, 5, dtype=torch.float64, requires_grad=True)
    teachers = torch.softmax(torch.randn(2, 4, 5, dtype=torch.float64), -1)
    values = [DINOLoss(5, kernels=kernels)(students, teachers) for kernels in KERNELS]
    torch.testing.assert_close(values[1], values[0], rtol=1e-14, atol=1e-14)
    gradients = [torch.autograd.grad(value, students)[0] for value in values]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-13, atol=1e-14)


@given(seed=st.integers(0, 1000), n_rows=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_gradient_is_student_minus_teacher(seed: int, n_rows: int) -> None:
    """The derivative by a logit is (softmax(s / 0.1) - t) / (0.1 * B)."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(n_rows, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.softmax(torch.randn(n_rows, 4, generator=generator, dtype=torch.float64), -1)
    DINOLoss(4)([student], [teacher]).backward()
    expected = (torch.softmax(student.detach() / 0.1, -1) - teacher) / (0.1 * n_rows)
    torch.testing.assert_close(student.grad, expected)


def test_the_student_temperature_is_a_parameter() -> None:
    """At temperature 1 the logits are taken as they are."""
    student, teacher = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.0, 1.0]])
    assert DINOLoss(2, student_temp=1.0)([student], [teacher]).item() == pytest.approx(-math.log(0.75))


def test_the_least_loss_is_the_teacher_s_entropy() -> None:
    """A student that equals its teacher pays the entropy, any other more."""
    teacher = torch.softmax(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), -1)
    entropy = -(teacher * teacher.log()).sum(-1).mean()
    loss = DINOLoss(6)
    torch.testing.assert_close(loss([0.1 * teacher.log()], [teacher]), entropy)
    assert loss([torch.zeros(3, 6)], [teacher]) > entropy


@pytest.mark.parametrize(("n_students", "n_teachers"), [(0, 1), (1, 0)])
def test_an_empty_side_is_an_error(n_students: int, n_teachers: int) -> None:
    """Official returns the integer 0, which fails later."""
    with pytest.raises(ValueError, match=f"{n_students} student and {n_teachers} teacher"):
        DINOLoss(2)([torch.zeros(1, 2)] * n_students, [torch.ones(1, 2)] * n_teachers)


def test_sinkhorn_counts_its_own_rows() -> None:
    """Rows of the assignment sum to 1 without being told how many there are."""
    assigned = DINOLoss(4).sinkhorn_knopp_teacher(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), 0.5)
    torch.testing.assert_close(assigned.sum(1), torch.ones(6))


def test_sinkhorn_iterations_can_be_changed() -> None:
    """More iterations bring the prototypes nearer to equal use."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    spread = [DINOLoss(4).sinkhorn_knopp_teacher(x, 0.5, n).sum(0).std().item() for n in (1, 3, 30)]
    assert spread[0] > spread[1] > spread[2]
