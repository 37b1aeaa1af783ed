"""Difference 5: what is proven of a rewrite, and what is left to a person."""

from __future__ import annotations

import torch
from masks_cases import apply, load, rows_of_three_counts

from migrations.engine.model import Level, State
from migrations.engine.project import Project
from migrations.rules.m0005_normalisation import MIGRATION

_HEAD = "import torch\nimport torch.nn.functional as F\n\n\n"
_COMMENT = "# Each masked token weighs one over the masked tokens of its row, so that every row counts alike.\n"

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
    student, teacher, masks = rows_of_three_counts()
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
