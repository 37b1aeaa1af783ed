from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.attribution.losses import attribute_ibot, reductions
from parity.results import Finding

COUNTS = (2, 0, 5, 0, 9, 0, 0, 0)
"""Masked tokens by row: three of eight rows, so that masked rows are not as many as images."""

Reduction = Callable[[Tensor, Tensor, Tensor], Tensor]

FORKS: dict[str, Reduction] = {
    "total number of masked tokens": lambda tokens, masks, weight: tokens.mean(),
    "normalised twice": lambda tokens, masks, weight: (tokens * weight).mean(),
    "divided by the number of images": lambda tokens, masks, weight: (tokens * weight).sum() / 4,
    "divided by the masked rows alone": lambda tokens, masks, weight: (tokens * weight).sum() / 3,
    "not divided by the number of rows": lambda tokens, masks, weight: (tokens * weight).sum(),
    "summed without weights": lambda tokens, masks, weight: tokens.sum() / 8,
}


def _case() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(8, 16, dtype=torch.bool)
    for row, count in enumerate(COUNTS):
        masks[row, :count] = True
    weight = torch.tensor([1 / count for count in COUNTS for _ in range(count)])
    return {
        "student": 0.1 * torch.randn(16, 24, generator=generator),
        "teacher": torch.softmax(torch.randn(16, 24, generator=generator), -1),
        "masks": masks,
        "masks_weight": weight,
    }


def _stack(reduce: Reduction, temperature: float = 0.1) -> Any:
    def ibot_loss(student: Tensor, teacher: Tensor, masks: Tensor, n_masked: int, weight: Tensor) -> Tensor:
        tokens = -(teacher * F.log_softmax(student / temperature, dim=-1)).sum(-1)
        return reduce(tokens[:n_masked], masks, weight)

    return SimpleNamespace(ibot_loss=ibot_loss)


OFFICIAL = _stack(lambda tokens, masks, weight: (tokens * weight).sum() / masks.shape[0])


def _findings(subject: Any) -> list[Finding]:
    return list(attribute_ibot(OFFICIAL, subject, _case()))


@pytest.mark.parametrize("words", FORKS)
def test_each_reduction_is_recognised_by_its_value(words: str) -> None:
    """A fabricated fork of each kind gets the sentence of its kind, and no other."""
    (finding,) = _findings(_stack(FORKS[words]))
    assert finding.id == "0005"
    assert words in finding.sentence
    assert "16 masked tokens in 8 rows" in finding.sentence
    assert "0005" in finding.fix
    assert finding.official == "dinov2/loss/ibot_patch_loss.py:116-126"


@pytest.mark.parametrize(
    ("words", "ratio"),
    # official = S / 8, where S is the weighted sum: divided by S / 16, S / 4, S / 3 and S.
    [
        ("normalised twice", "2"),
        ("divided by the number of images", "0.5"),
        ("divided by the masked rows alone", "0.375"),
        ("not divided by the number of rows", "0.125"),
    ],
)
def test_the_ratio_is_the_number_that_names_the_bug(words: str, ratio: str) -> None:
    """Sixteen tokens over eight rows normalised twice: official is twice as large."""
    (finding,) = _findings(_stack(FORKS[words]))
    assert finding.sentence.startswith(f"official / yours = {ratio}: ")


def test_shares_of_the_rows_are_told() -> None:
    """Rows of 9, 5 and 2 tokens weigh 56, 31 and 12 per cent where official weighs them alike."""
    (finding,) = _findings(_stack(FORKS["total number of masked tokens"]))
    assert "shares of the loss by row 56%, 31%, 12%, official's are equal" in finding.sentence


def test_official_s_own_reduction_is_not_accused() -> None:
    """Equal values, also computed in another order, have no finding."""
    assert _findings(OFFICIAL) == []
    assert _findings(_stack(lambda tokens, masks, weight: (tokens.flip(0) * weight.flip(0)).mean() * 2)) == []


def test_another_fault_is_not_called_a_reduction() -> None:
    """A wrong temperature diverges, but no reduction explains it."""
    assert _findings(_stack(lambda t, m, w: (t * w).sum() / 8, temperature=0.2)) == []


def test_a_loss_of_zero_is_not_divided_by() -> None:
    """A fork that returns nothing is no reduction."""
    assert _findings(_stack(lambda tokens, masks, weight: tokens.sum() * 0)) == []


def test_reductions_are_the_algebra_that_they_name() -> None:
    """Token losses of 1 make every value a count: by hand."""
    case = _case()
    values = reductions(torch.ones(16), case["masks"], case["masks_weight"])
    # Three masked rows, so the weighted sum is 3.
    expected = [1.0, 3 / 16, 3 / 4, 1.0, 3.0, 2.0]
    assert [float(v) for v in values.values()] == pytest.approx(expected, rel=1e-6)
