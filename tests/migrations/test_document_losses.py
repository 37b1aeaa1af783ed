from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from migrations.document import DocumentStack
from migrations.document.losses import patch_prototype_loss, per_sample_mean, row_weights

COUNTS = (98, 59, 20)
"""Masked tokens of the document's samples A, B and C, of 196."""


def masks_of(counts: tuple[int, ...], n_tokens: int = 196) -> Tensor:
    """Rows whose first tokens are masked."""
    return torch.stack([torch.arange(n_tokens) < count for count in counts])


def tokens_with_loss(values: list[float]) -> tuple[Tensor, Tensor]:
    """Logits and targets over two classes whose cross-entropy at temperature 0.1 is each given value."""
    logits = [[0.1 * math.log(math.expm1(v)), 0.0] for v in values]
    targets = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(len(values), 2)
    return torch.tensor(logits, dtype=torch.float64).view(-1, 2), targets


def features(seed: int, rows: int = 4, tokens: int = 9, dim: int = 6) -> Tensor:
    """Normal tokens."""
    return torch.randn(rows, tokens, dim, generator=torch.Generator().manual_seed(seed))


def test_weights_of_rows() -> None:
    """One over the count, and 0 for a row without masked tokens."""
    assert row_weights(masks_of((4, 0, 2), 5)).tolist() == [0.25, 0.0, 0.5]


def test_each_masked_row_has_the_same_share() -> None:
    """Rows of 98, 59 and 20 tokens take 33, 33 and 33 % of the gradient."""
    per_token = torch.ones(sum(COUNTS), requires_grad=True)
    masks = masks_of(COUNTS)
    per_sample_mean(per_token, masks, row_weights(masks)).backward()
    assert per_token.grad is not None
    by_row = [float(part.sum()) for part in torch.split(per_token.grad, list(COUNTS))]
    assert by_row == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_unmasked_rows_count_below_the_line() -> None:
    """Row means 1 and 3 and two unmasked rows: 4 / 4, not 4 / 2."""
    masks = masks_of((2, 0, 4, 0), 5)
    per_token = torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    assert float(per_sample_mean(per_token, masks, row_weights(masks))) == pytest.approx(1.0)


def test_per_token_weights_are_refused() -> None:
    """Official's weights, one per token, would be gathered a second time."""
    masks = masks_of((2, 3), 5)
    with pytest.raises(ValueError, match=r"masks_weight has shape \(5,\), expected \(2,\)"):
        per_sample_mean(torch.ones(5), masks, torch.ones(5))


def test_ibot_loss_is_official_s_by_algebra() -> None:
    """Row means 1, 2, 3 and one unmasked row: (1 + 2 + 3) / 4."""
    student, teacher = tokens_with_loss([1.0] * 98 + [2.0] * 59 + [3.0] * 20)
    masks = masks_of((*COUNTS, 0))
    loss = DocumentStack().ibot_loss(student, teacher, masks, 177, torch.ones(177))
    assert float(loss) == pytest.approx(1.5, rel=1e-6)


def test_ibot_loss_makes_its_own_weights() -> None:
    """What a caller passes per token has no place in section 3's form."""
    student, teacher = tokens_with_loss([1.0, 1.0, 5.0])
    masks = masks_of((2, 1), 5)
    stack = DocumentStack()
    assert torch.equal(
        stack.ibot_loss(student, teacher, masks, 3, torch.full((3,), 9.0)),
        stack.ibot_loss(student, teacher, masks, 3, torch.full((3,), 0.5)),
    )


def test_ibot_loss_ignores_padding() -> None:
    """Rows past the masked tokens count for nothing."""
    student, teacher = tokens_with_loss([1.0, 3.0, 50.0])
    loss = DocumentStack().ibot_loss(student, teacher, masks_of((1, 1), 5), 2, torch.ones(2))
    assert float(loss) == pytest.approx(2.0)


def test_ibot_loss_of_one_image_is_zero() -> None:
    """The document masks no crop of a single image, so its loss is 0 and teaches nothing."""
    student, teacher = tokens_with_loss([])
    loss = DocumentStack().ibot_loss(student, teacher, masks_of((0, 0)), 0, torch.ones(0))
    assert float(loss) == 0.0


def test_prototype_loss_of_one_token_by_hand() -> None:
    """One token in one of two rows: 5 + log(1 + exp(-10)), halved by the unmasked row."""
    tokens = torch.tensor([[[3.0, 0.0]], [[3.0, 0.0]]])
    masks = torch.tensor([[True], [False]])
    loss = DocumentStack().prototype_loss("masked", tokens, tokens, masks)
    assert float(loss) == pytest.approx((5 + math.log1p(math.exp(-10))) / 2, rel=1e-6)


def test_prototype_loss_without_weights_is_a_mean() -> None:
    """Where every row masks as many tokens, the fall-back and the weighted sum agree."""
    masks = masks_of((3, 3, 3, 3), 9)
    student, teacher, axes = features(0), features(1), torch.eye(6)
    torch.testing.assert_close(
        patch_prototype_loss(student, teacher, masks, axes),
        patch_prototype_loss(student, teacher, masks, axes, row_weights(masks)),
    )


def test_prototype_loss_weighs_rows_not_tokens() -> None:
    """Where rows differ, the two disagree."""
    masks = masks_of((8, 1, 1, 1), 9)
    student, teacher, axes = features(0), features(1), torch.eye(6)
    mean = patch_prototype_loss(student, teacher, masks, axes)
    weighted = patch_prototype_loss(student, teacher, masks, axes, row_weights(masks))
    assert abs(float(mean - weighted)) > 1e-3


def test_prototype_targets_depend_on_unmasked_teacher_tokens() -> None:
    """Sinkhorn over all tokens: the loss does not share iBOT's features alone, as section 4 says."""
    masks = masks_of((3, 2, 1, 3), 9)
    student, teacher = features(0), features(1)
    before = DocumentStack().prototype_loss("masked", student, teacher, masks)
    teacher[~masks] = features(2)[~masks]
    after = DocumentStack().prototype_loss("masked", student, teacher, masks)
    assert abs(float(after - before)) > 1e-3


@pytest.mark.parametrize("mode", ["visible", "separate"])
def test_removed_modes_are_refused(mode: str) -> None:
    """Section 4 keeps `masked` alone."""
    with pytest.raises(ValueError, match=f"{mode!r} is gone, expected 'masked'"):
        DocumentStack().prototype_loss(mode, features(0), features(1), masks_of((3, 3, 3, 3), 9))
