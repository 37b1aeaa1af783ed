"""Difference 5: forms that normalise by tokens are mended, and then weigh every row alike."""

from __future__ import annotations

import pytest
import torch

from migrations.engine.model import Level, State
from migrations.engine.project import Project
from migrations.rules.m0005_normalisation import MIGRATION
from tests.migrations.rules.masks_cases import apply, load

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

_LENGTH = (
    _HEAD
    + """class Trainer:
    def step(self, s, t, masks):
        R, N = masks.shape

        def patch_loss(a, b):
            picked = a[masks]
            ce = -torch.sum(b[masks] * F.log_softmax(picked, dim=-1), dim=-1)
            return ce.sum() / max(len(picked), 1)

        return patch_loss(s, t)
"""
)

_CASES = {
    "document": (
        _DOCUMENT,
        "        clustering_loss = -torch.sum(Q_tilde_masked * student_log_probs_masked) / M_total  # über alle\n",
        f"        {_COMMENT}"
        "        masks_weight = (1 / token_masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(token_masks)[token_masks]\n"
        "        clustering_loss = -torch.sum(torch.sum(Q_tilde_masked * student_log_probs_masked, dim=-1) * masks_weight)"
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


def _rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits, targets and masks of four rows: 98, 59, 20 and no masked tokens of 196.

    Two prototypes with targets on the first: the cross-entropy of a token is log(1 + exp(gap)). The gap is chosen for
    a loss of 1, 2 and 3 in the three masked rows.
    """
    masks = torch.zeros(4, 196, dtype=torch.bool)
    for row, count in enumerate((98, 59, 20)):
        masks[row, torch.arange(count) * 2] = True
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    gap = torch.log(torch.expm1(losses))
    student = torch.stack([torch.zeros(4, dtype=torch.float64), gap], dim=-1)[:, None].expand(4, 196, 2)
    teacher = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(4, 196, 2)
    return student, teacher, masks


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
    student, teacher, masks = _rows()
    torch.testing.assert_close(
        load(text).ibot(student, teacher, masks), torch.tensor(before, dtype=torch.float64), rtol=1e-6, atol=0
    )
    after = load(apply(MIGRATION.find, {"loss.py": text}, Level.SAFE)["loss.py"]).ibot(student, teacher, masks)
    torch.testing.assert_close(after, torch.tensor(1.5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_documents_prototype_loss_weighs_rows_alike() -> None:
    """The document's loss, whose double sum has no dimension, runs and gives 1.5 on the same rows."""
    student, teacher, masks = _rows()
    text = apply(MIGRATION.find, {"loss.py": _DOCUMENT}, Level.SAFE)["loss.py"].replace(
        "F.normalize(student_features, dim=-1)", "student_features"
    )
    loss = load(text).PatchPrototypeLoss()(teacher * 2000 - 1000, student, masks, lambda features: features)
    torch.testing.assert_close(loss, torch.tensor(1.5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_an_unclamped_row_mean_is_no_longer_nan() -> None:
    """A row without masked tokens gives NaN before, and 0 after: 1.5 over the four rows."""
    student, teacher, masks = _rows()
    assert load(_BATCHMEAN).ibot(student, teacher, masks).isnan()
    after = apply(MIGRATION.find, {"loss.py": _BATCHMEAN}, Level.SAFE)["loss.py"]
    torch.testing.assert_close(
        load(after).ibot(student, teacher, masks), torch.tensor(1.5, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_a_mask_of_the_function_around_is_not_rewritten_as_proven() -> None:
    """A nested function that closes over the mask is diverged; nothing is claimed safe that is not its own."""
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": _LENGTH}))
    assert finding.state is State.DIVERGED
    assert finding.level is Level.MANUAL


def test_the_mask_is_handed_to_a_function_whose_callers_select_by_it() -> None:
    """A loss that sees tokens only gets the mask from its callers, at the level of assumptions."""
    loss = (
        _HEAD
        + """def per_token(s, t):
    return -torch.sum(t * F.log_softmax(s / 0.1, dim=-1), dim=-1)


def ibot_patch_loss(student, teacher, n):
    loss = per_token(student[:n], teacher[:n])
    return loss.sum() / loss.new_tensor(n)
"""
    )
    trainer = """from losses import ibot_patch_loss as patch_loss


def step(student, teacher, images, masks):
    s = student(images, masks=masks)[masks]
    t = teacher(images)[masks]
    return patch_loss(s, t, n=len(s))
"""
    after = apply(MIGRATION.find, {"losses.py": loss, "trainer.py": trainer}, Level.UNSAFE)
    assert after["trainer.py"] == trainer.replace("n=len(s))", "n=len(s), student_masks_flat=masks)")
    mask = "student_masks_flat"
    assert after["losses.py"] == loss.replace("teacher, n):", f"teacher, n, *, {mask}):").replace(
        "    return loss.sum() / loss.new_tensor(n)\n",
        f"    {_COMMENT}"
        f"    masks_weight = (1 / {mask}.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as({mask})[{mask}]\n"
        f"    return (loss * masks_weight).sum() / {mask}.shape[0]\n",
    )
    student, teacher, masks = _rows()
    losses = load(after["losses.py"])
    step = load(after["trainer.py"].split("\n", 2)[2], patch_loss=losses.ibot_patch_loss).step
    # The temperature of 0.1 is undone, so that the rows' losses are 1, 2 and 3 again.
    loss_value = step(lambda images, masks: student * 0.1, lambda images: teacher, None, masks)
    torch.testing.assert_close(loss_value, torch.tensor(1.5, dtype=torch.float64), rtol=1e-6, atol=0)


def test_what_is_in_scope_but_not_proven_is_unsafe() -> None:
    """Without a trace of the mask's two dimensions, the edits are offered on the assumption, which is named."""
    text = _MEAN.replace("    R, N = sel.shape\n", "").replace(" and sel.dim() == 2", "").replace("sel", "mask")
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": text}))
    assert (finding.state, finding.level) == (State.DIVERGED, Level.UNSAFE)
    assert "assumes that `mask` is (rows, tokens)" in finding.person


def test_a_loss_without_any_mask_in_sight_is_left_to_a_person() -> None:
    """Where the function's callers are not seen and it has no mask, the finding says what must be passed."""
    text = (
        _HEAD
        + """def loss(student, teacher, n_masked):
    ce = -(teacher[:n_masked] * student[:n_masked].log_softmax(-1)).sum(-1)
    return ce.sum() / n_masked
"""
    )
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": text}))
    assert (finding.state, finding.level, finding.edits) == (State.UNKNOWN, Level.MANUAL, ())


def test_the_fallback_without_weights_is_partial() -> None:
    """The document's own loss is right with weights, and divides by tokens where none are given."""
    text = (
        _HEAD
        + """def loss(student, teacher, token_masks, masks_weight=None):
    B, N, D = student.shape
    ce = -(teacher[token_masks] * student[token_masks].log_softmax(-1)).sum(-1)
    if masks_weight is not None:
        rows = token_masks.nonzero(as_tuple=True)[0]
        result = (ce * masks_weight[rows]).sum() / B
    else:
        result = ce.mean()
    return result
"""
    )
    weighted, fallback = MIGRATION.find(Project.of_texts({"a.py": text}))
    assert weighted.state is State.UNKNOWN, "nothing shows what the weights are"
    assert (fallback.state, fallback.level) == (State.PARTIAL, Level.SAFE)
    maker = (
        _HEAD
        + """def make(token_masks):
    number = token_masks.sum(dim=1).float()
    return torch.where(number > 0, 1.0 / number, torch.zeros_like(number))


def train(s, t, token_masks):
    return loss(s, t, token_masks, masks_weight=make(token_masks))
"""
    )
    found = MIGRATION.find(Project.of_texts({"a.py": text, "b.py": maker}))
    assert [finding.state for finding in found] == [State.ALIGNED, State.PARTIAL]
