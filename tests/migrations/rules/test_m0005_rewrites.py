"""Difference 5: forms that normalise by tokens are mended, and then weigh every row alike."""

from __future__ import annotations

import pytest
import torch
from masks_cases import apply, load, rows_of_three_counts

from migrations.engine.model import Level
from migrations.rules.m0005_normalisation import MIGRATION

_HEAD = "import torch\nimport torch.nn.functional as F\n\n\n"
_COMMENT = "# Each masked token weighs one over the masked tokens of its row, so that every row counts alike.\n"

_DOCUMENT = (
    _HEAD
    + """class PatchPrototypeLoss(torch.nn.Module):
    def forward(self, teacher_features, student_features, token_masks, bank):
        B, N, D = student_features.shape
        student_norm = F.normalize(student_features, dim=-1)
        student_norm_masked = student_norm[token_masks]
        Q_tilde_masked = bank(teacher_features).softmax(-1)[token_masks]
        student_log_probs_masked = F.log_softmax(bank(student_norm_masked), dim=-1)
        M_total = student_norm_masked.shape[0]  # 98 + 59 + 20 = 177
        clustering_loss = -torch.sum(Q_tilde_masked * student_log_probs_masked) / M_total  # über alle
        return clustering_loss
"""
)

_MEAN = (
    _HEAD
    + """def ibot(student, teacher, sel):
    assert sel.dtype == torch.bool and sel.dim() == 2
    R, N = sel.shape
    picked, target = student[sel], teacher[sel]
    per_token = torch.sum(-target * torch.log_softmax(picked, dim=-1), -1)
    return per_token.mean()
"""
)

_TWICE = (
    _HEAD
    + """def ibot(student, teacher, masks):
    R, N = masks.shape
    weight = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
    loss = -(teacher[masks] * student[masks].log_softmax(-1)).sum(-1)
    loss = loss * weight
    return loss.mean()
"""
)

_DENSE = (
    _HEAD
    + """def ibot(student, teacher, masks):
    R, N = masks.shape
    loss = -(teacher * student.log_softmax(dim=-1)).sum(dim=-1)
    return (loss * masks).sum() / masks.sum()
"""
)

_BATCHMEAN = (
    _HEAD
    + """def ibot(student, teacher, masks):
    loss = -(teacher * student.log_softmax(-1)).sum(-1)
    rows = (loss * masks.float()).sum(-1) / masks.sum(-1)
    return rows.mean()
"""
)

_ROWS = (
    _HEAD
    + """def ibot(student, teacher, masks):
    B, N, K = student.shape
    loss = -(teacher[masks] * student[masks].log_softmax(-1)).sum(-1)
    return loss.sum() / B
"""
)

_CASES = {
    "document": (
        _DOCUMENT,
        "        clustering_loss = -torch.sum(Q_tilde_masked * student_log_probs_masked) / M_total  # über alle\n",
        f"        {_COMMENT}"
        "        masks_weight = "
        "(1 / token_masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(token_masks)[token_masks]\n"
        "        clustering_loss = "
        "-torch.sum(torch.sum(Q_tilde_masked * student_log_probs_masked, dim=-1) * masks_weight)"
        " / token_masks.shape[0]  # über alle\n",
    ),
    "mean": (
        _MEAN,
        "    return per_token.mean()\n",
        f"    {_COMMENT}"
        "    masks_weight = (1 / sel.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(sel)[sel]\n"
        "    return (per_token * masks_weight).sum() / sel.shape[0]\n",
    ),
    "twice": (_TWICE, "    return loss.mean()\n", "    return loss.sum() / masks.shape[0]\n"),
    "dense": (
        _DENSE,
        "    return (loss * masks).sum() / masks.sum()\n",
        "    return (loss * masks / masks.sum(-1, keepdim=True).clamp(min=1.0)).sum() / masks.shape[0]\n",
    ),
    "unclamped": (
        _BATCHMEAN,
        "/ masks.sum(-1)\n",
        "/ masks.sum(-1).clamp(min=1.0)\n",
    ),
    "rows": (
        _ROWS,
        "    return loss.sum() / B\n",
        f"    {_COMMENT}"
        "    masks_weight = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]\n"
        "    return (loss * masks_weight).sum() / masks.shape[0]\n",
    ),
}


@pytest.mark.parametrize("name", _CASES)
def test_each_form_is_mended_to_the_letter(name: str) -> None:
    """The line changes, what is around it stays, and the result is aligned and has nothing left to mend."""
    before, old, new = _CASES[name]
    assert before.count(old) == 1
    assert apply(MIGRATION.find, {"loss.py": before}, Level.SAFE) == {"loss.py": before.replace(old, new)}


@pytest.mark.parametrize("name", _CASES)
def test_windows_line_ends_and_tabs_are_kept(name: str) -> None:
    """A file with CRLF and tabs has them after the edits too."""
    before, old, new = (text.replace("    ", "\t").replace("\n", "\r\n") for text in _CASES[name])
    assert apply(MIGRATION.find, {"loss.py": before}, Level.SAFE) == {"loss.py": before.replace(old, new)}


@pytest.mark.parametrize(
    ("name", "before"),
    [
        # (98 * 1 + 59 * 2 + 20 * 3) / 177: shares of 55, 33 and 11 %.
        ("mean", 276 / 177),
        # The sum over the masked rows of 1, 2 and 3 is 6, divided by 177 tokens instead of 4 rows.
        ("twice", 6 / 177),
        ("dense", 276 / 177),
        # 276 over 4 rows.
        ("rows", 276 / 4),
    ],
)
def test_the_loss_is_the_mean_over_rows(name: str, before: float) -> None:
    """Losses of 1, 2, 3 in rows with 98, 59, 20 masked tokens and a fourth without any: (1 + 2 + 3) / 4 = 1.5."""
    text = _CASES[name][0]
    student, teacher, masks = rows_of_three_counts()
    torch.testing.assert_close(
        load(text).ibot(student, teacher, masks), torch.tensor(before, dtype=torch.float64), rtol=1e-6, atol=0
    )
    after = load(apply(MIGRATION.find, {"loss.py": text}, Level.SAFE)["loss.py"]).ibot(student, teacher, masks)
    torch.testing.assert_close(after, torch.tensor(1.5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_documents_prototype_loss_weighs_rows_alike() -> None:
    """The document's loss, whose double sum has no dimension, runs and gives 1.5 on the same rows."""
    student, teacher, masks = rows_of_three_counts()
    text = apply(MIGRATION.find, {"loss.py": _DOCUMENT}, Level.SAFE)["loss.py"].replace(
        "F.normalize(student_features, dim=-1)", "student_features"
    )
    loss = load(text).PatchPrototypeLoss()(teacher * 2000 - 1000, student, masks, lambda features: features)
    torch.testing.assert_close(loss, torch.tensor(1.5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_an_unclamped_row_mean_is_no_longer_nan() -> None:
    """A row without masked tokens gives NaN before, and 0 after: 1.5 over the four rows."""
    student, teacher, masks = rows_of_three_counts()
    assert load(_BATCHMEAN).ibot(student, teacher, masks).isnan()
    after = apply(MIGRATION.find, {"loss.py": _BATCHMEAN}, Level.SAFE)["loss.py"]
    torch.testing.assert_close(
        load(after).ibot(student, teacher, masks), torch.tensor(1.5, dtype=torch.float64), rtol=1e-6, atol=0
    )
