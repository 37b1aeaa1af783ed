"""Difference 5: what is official's rule already, or is no loss over masked patches, is left as it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from masks_cases import states

from migrations.engine.model import State
from migrations.engine.project import Project
from migrations.rules.m0005_normalisation import MIGRATION

_ROOT = Path(__file__).resolve().parents[3]

_HEAD = "import torch\nimport torch.nn.functional as F\n\n\n"

_IBOT = (
    _HEAD
    + """class Loss(torch.nn.Module):
    def forward(self, student_patch_c, teacher_patch_c, student_mask):
        total, n_terms = 0, 0
        for q in range(len(teacher_patch_c)):
            loss2 = torch.sum(-teacher_patch_c[q] * F.log_softmax(student_patch_c[q], dim=-1), dim=-1)
            mask = student_mask[q].flatten(-2, -1)
            loss2 = torch.sum(loss2 * mask.float(), dim=-1) / mask.sum(dim=-1).clamp(min=1.0)
            total += loss2.mean()
            n_terms += 1
        return total / n_terms
"""
)

_MIGRATED = (
    _HEAD
    + """def patch_loss(student, teacher, token_masks):
    picked, target = student[token_masks], teacher[token_masks]
    ce = -(target * picked.log_softmax(-1)).sum(-1)
    w = (1 / token_masks.sum(-1).clamp(min=1)).unsqueeze(-1).expand_as(token_masks)[token_masks]
    return (ce * w).sum() / token_masks.shape[0]
"""
)

_GRIDS = (
    _HEAD
    + """def patch_loss(teacher_out, student_out, mask):
    ce = -torch.sum(F.softmax(teacher_out, dim=-1) * F.log_softmax(student_out, dim=-1), dim=-1)
    number = mask.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
    weight = (1.0 / number).expand_as(mask)[mask]
    rows = mask.shape[0]
    return (ce * weight).sum() / rows
"""
)

_DINO = (
    _HEAD
    + """def dino_loss(student_out, teacher_out, ncrops):
    total, n = 0, 0
    for iq, q in enumerate(teacher_out):
        for v in range(len(student_out)):
            if v == iq:
                continue
            loss = torch.sum(-q * F.log_softmax(student_out[v], dim=-1), dim=-1)
            total += loss.mean()
            n += 1
    return total / n
"""
)

_SAMPLES = (
    _HEAD
    + """def distil(student_logits, teacher_logits, images):
    ce = -torch.sum(teacher_logits.softmax(-1) * student_logits.log_softmax(-1), dim=-1)
    batch_size = len(images)
    return ce.sum() / batch_size
"""
)

_MAE = (
    _HEAD
    + """def forward_loss(imgs, pred, mask):
    loss = (pred - imgs) ** 2
    loss = loss.mean(dim=-1)
    return (loss * mask).sum() / mask.sum()
"""
)

_BEIT = (
    _HEAD
    + """def forward(prediction_scores, bool_masked_pos, labels):
    return torch.nn.CrossEntropyLoss()(prediction_scores[bool_masked_pos], labels)
"""
)

_WORDS = (
    _HEAD
    + """def loss(logits, targets, attention_mask):
    ce = -(targets * logits.log_softmax(-1)).sum(-1)
    return (ce * attention_mask).sum() / attention_mask.sum()
"""
)

_SMOOTHED = (
    _HEAD
    + """class SoftTargetCrossEntropy(torch.nn.Module):
    def forward(self, x, target):
        loss = torch.sum(-target * F.log_softmax(x, dim=-1), dim=-1)
        return loss.mean()
"""
)

_KOLEO = (
    _HEAD
    + """def koleo(x, masks):
    picked = F.normalize(x[masks], dim=-1)
    return -torch.log(torch.cdist(picked, picked).min(dim=-1)[0]).mean()
"""
)


_CLASSES = (
    _HEAD
    + """class Classifier(torch.nn.Module):
    def forward(self, ids, attention_mask, labels, teacher):
        outputs = self.body(ids, attention_mask)
        logits = self.head(outputs[0])
        log_softmax = torch.nn.LogSoftmax(-1)
        return -((log_softmax(logits) * labels).sum(-1)).mean()
"""
)


@pytest.mark.parametrize("text", [_IBOT, _MIGRATED, _GRIDS], ids=["ibot", "migrated", "grids"])
def test_a_mean_over_rows_is_aligned(text: str) -> None:
    """Per-row weights over rows, and iBOT's means over rows averaged over crops, are official's rule."""
    assert states(MIGRATION.find, text) == [State.ALIGNED]


@pytest.mark.parametrize(
    "text",
    [_DINO, _SAMPLES, _MAE, _BEIT, _WORDS, _SMOOTHED, _KOLEO, _CLASSES],
    ids=["dino", "samples", "mae", "beit", "words", "smoothed", "koleo", "classes"],
)
def test_what_is_no_patch_distillation_is_not_judged(text: str) -> None:
    """Other losses, whatever they divide by, give the one statement that nothing was found, at no place."""
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": text}))
    assert (finding.state, finding.site) == (State.UNKNOWN, None)
    assert "no cross-entropy of masked tokens" in finding.evidence


def test_crops_that_are_added_up_are_partial() -> None:
    """The loop of iBOT without its division is per row, but official's value times the number of crops."""
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": _IBOT.replace("return total / n_terms", "return total")}))
    assert (finding.state, finding.edits) == (State.PARTIAL, ())
    assert "`total` adds up the crops" in finding.evidence


def test_an_unseen_divisor_is_unknown_at_its_place() -> None:
    """A number that comes from elsewhere may count tokens or rows; the finding says so and where."""
    text = _MIGRATED.replace("token_masks):", "token_masks, number):").replace("token_masks.shape[0]", "number")
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": text}))
    assert (finding.state, str(finding.site)) == (State.UNKNOWN, "a.py:9")
    assert "what `number` counts" in finding.evidence


def test_official_code_is_aligned(official_root: Path) -> None:
    """Both forms of official's iBOT loss are recognised, and nothing else in official code is judged."""
    found = MIGRATION.find(_project(official_root, official_root.rglob("*.py")))
    assert [(str(f.site), f.state) for f in found] == [
        ("dinov2/loss/ibot_patch_loss.py:104", State.ALIGNED),
        ("dinov2/loss/ibot_patch_loss.py:127", State.ALIGNED),
    ]


def test_port_is_aligned() -> None:
    """`port`'s iBOT losses, and its prototype loss whose weights come from collate, are official's rule."""
    found = MIGRATION.find(_project(_ROOT, (_ROOT / "port").rglob("*.py")))
    assert [(f.site.path, f.state) for f in found if f.site] == [
        ("port/losses/ibot.py", State.ALIGNED),
        ("port/losses/ibot.py", State.ALIGNED),
        ("port/losses/prototype.py", State.ALIGNED),
    ]


def _project(root: Path, paths: Iterable[Path]) -> Project:
    return Project.of_texts({p.relative_to(root).as_posix(): p.read_text("utf-8") for p in paths})
