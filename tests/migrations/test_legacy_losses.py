from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from migrations.legacy.losses import (
    PROTOTYPE_MODES,
    ibot_patch_loss,
    patch_prototype_loss,
    prototype_cross_entropy,
    select_tokens,
)

COUNTS = (98, 59, 20)
"""Masked tokens of the document's samples A, B and C, of 196."""


def tokens_with_loss(values: list[float]) -> tuple[Tensor, Tensor]:
    """Logits and targets over two classes whose cross-entropy at temperature 0.1 is each given value.

    log(1 + exp(x / 0.1)) = v for the logits (x, 0) and the target (0, 1).
    """
    logits = [[0.1 * math.log(math.expm1(v)), 0.0] for v in values]
    return torch.tensor(logits, dtype=torch.float64), torch.tensor([[0.0, 1.0]]).double().expand(len(values), 2)


def features(rows: int, tokens: int, dim: int, seed: int) -> Tensor:
    """Normal tokens."""
    return torch.randn(rows, tokens, dim, generator=torch.Generator().manual_seed(seed))


def a_third(rows: int = 4, tokens: int = 9) -> Tensor:
    """Masks with every third token masked."""
    return torch.arange(rows * tokens).view(rows, tokens) % 3 == 0


def test_ibot_loss_is_the_mean_over_tokens() -> None:
    """Token losses 1, 2 and 6 have the mean 3, whichever rows they come from."""
    student, teacher = tokens_with_loss([1.0, 2.0, 6.0])
    assert float(ibot_patch_loss(student, teacher, 3)) == pytest.approx(3.0, abs=1e-12)


def test_ibot_loss_ignores_padding() -> None:
    """Rows past the masked tokens, a buffer's padding, count neither above nor below the line."""
    student, teacher = tokens_with_loss([1.0, 3.0, 100.0])
    assert float(ibot_patch_loss(student, teacher, 2)) == pytest.approx(2.0, abs=1e-12)


def test_ibot_loss_is_not_official_where_rows_differ() -> None:
    """For row means 1, 2, 3 and the document's counts: (98 + 118 + 60) / 177, where official has 2."""
    values = [1.0] * COUNTS[0] + [2.0] * COUNTS[1] + [3.0] * COUNTS[2]
    student, teacher = tokens_with_loss(values)
    assert float(ibot_patch_loss(student, teacher, 177)) == pytest.approx(276 / 177, abs=1e-12)


def test_rows_share_the_gradient_by_their_tokens() -> None:
    """Rows of 98, 59 and 20 tokens take 55, 33 and 11 % of the gradient."""
    student, teacher = tokens_with_loss([1.0] * sum(COUNTS))
    student.requires_grad_(True)
    ibot_patch_loss(student, teacher, sum(COUNTS)).backward()
    assert student.grad is not None
    by_row = [float(part.abs().sum()) for part in torch.split(student.grad, list(COUNTS))]
    shares = [round(100 * part / sum(by_row)) for part in by_row]
    assert shares == [55, 33, 11]


def test_ibot_loss_of_no_token_is_nan() -> None:
    """Dividing by no tokens is 0 / 0; official's denominator, the rows, is never 0."""
    student, teacher = tokens_with_loss([])
    assert math.isnan(ibot_patch_loss(student.view(0, 2), teacher, 0))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("visible", [[False, True], [True, True]]),
        ("masked", [[True, False], [False, False]]),
        ("separate", [[True, True], [True, True]]),
    ],
)
def test_modes_select_tokens(mode: str, expected: list[list[bool]]) -> None:
    """Unmasked, masked, or all."""
    assert select_tokens(mode, torch.tensor([[True, False], [False, False]])).tolist() == expected


def test_unknown_mode_is_named() -> None:
    """A mode that the fork does not have is refused with the list of those it has."""
    with pytest.raises(ValueError, match="'all' is not known, expected one of visible, masked, separate"):
        select_tokens("all", a_third())


def test_prototype_loss_of_one_token_by_hand() -> None:
    """One token: Sinkhorn gives both prototypes a half; the student's logits are (10, 0)."""
    token = torch.tensor([[[3.0, 0.0]]])
    loss = patch_prototype_loss("masked", token, token, torch.tensor([[True]]), torch.eye(2))
    assert float(loss) == pytest.approx(5 + math.log1p(math.exp(-10)), rel=1e-6)


def test_prototype_loss_does_not_see_lengths() -> None:
    """Scores are cosines: a longer token changes nothing."""
    student, teacher, masks = features(4, 9, 6, 0), features(4, 9, 6, 1), a_third()
    once = patch_prototype_loss("masked", student, teacher, masks, torch.eye(6))
    scaled = patch_prototype_loss("masked", 7 * student, 3 * teacher, masks, torch.eye(6))
    torch.testing.assert_close(scaled, once)


def test_modes_add_up() -> None:
    """24 visible and 12 masked tokens, each at their mean, make the 36 of `separate`."""
    student, teacher, masks = features(4, 9, 6, 0), features(4, 9, 6, 1), a_third()
    loss = {mode: float(patch_prototype_loss(mode, student, teacher, masks, torch.eye(6))) for mode in PROTOTYPE_MODES}
    assert 24 * loss["visible"] + 12 * loss["masked"] == pytest.approx(36 * loss["separate"], rel=1e-5)
    assert len({round(value, 6) for value in loss.values()}) == 3


def test_prototype_targets_depend_on_tokens_that_are_not_selected() -> None:
    """Sinkhorn runs over all tokens: another unmasked teacher token changes the loss of the masked ones."""
    student, teacher, masks = features(4, 9, 6, 0), features(4, 9, 6, 1), a_third()
    before = patch_prototype_loss("masked", student, teacher, masks, torch.eye(6))
    teacher[~masks] = features(1, 24, 6, 2)[0]
    after = patch_prototype_loss("masked", student, teacher, masks, torch.eye(6))
    assert abs(float(after - before)) > 1e-3


def test_prototype_loss_depends_on_selected_student_tokens_alone() -> None:
    """No gradient reaches the teacher or a student token that is not selected."""
    student, teacher = features(4, 9, 6, 0).requires_grad_(), features(4, 9, 6, 1).requires_grad_()
    masks = a_third()
    loss = patch_prototype_loss("masked", student, teacher, masks, torch.eye(6))
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.equal(student.grad.abs().sum(-1) > 0, masks)


def test_prototype_cross_entropy_has_one_value_per_selected_token() -> None:
    """Nothing is normalised yet; a cross-entropy is positive."""
    loss = prototype_cross_entropy(features(4, 9, 6, 0), features(4, 9, 6, 1), a_third(), torch.eye(6))
    assert loss.shape == (12,)
    assert float(loss.min()) > 0


def test_prototype_loss_of_no_token_is_nan() -> None:
    """With nothing masked, mode `masked` divides 0 by 0."""
    masks = torch.zeros(4, 9, dtype=torch.bool)
    assert math.isnan(patch_prototype_loss("masked", features(4, 9, 6, 0), features(4, 9, 6, 1), masks, torch.eye(6)))
