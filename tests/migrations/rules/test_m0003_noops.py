"""Difference 3: what keeps to official's rule, or is no mask of a student's, is left as it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from mask_texts import BLOCKS, STEP
from masks_cases import states

from migrations.engine.model import Level, State
from migrations.engine.project import Project
from migrations.rules.m0003_masks import MIGRATION

_ROOT = Path(__file__).resolve().parents[3]

_PERMUTED = """import torch


def pick(b, n, r):
    places = torch.rand(b, n).argsort(dim=1)[:, : int(n * r)]
    mask = torch.zeros(b, n, dtype=torch.bool)
    mask.scatter_(1, places, True)
    return mask
"""


def test_a_permutation_is_diverged_and_left_to_a_person() -> None:
    """Masks as in MAE, given to a student beside a teacher, are found where they are filled."""
    step = STEP.format(name="pick", arguments="196, 0.3")
    (finding,) = MIGRATION.find(Project.of_texts({"helpers.py": _PERMUTED, "train.py": step}))
    assert (finding.state, finding.level, str(finding.site)) == (State.DIVERGED, Level.MANUAL, "helpers.py:7")
    assert "draw_block_masks" in finding.person


_MAE = (
    _PERMUTED
    + """

def train(model, images):
    mask = pick(len(images), 196, 0.75)
    return model(images, mask=mask)
"""
)
_SIMMIM = """import torch


class SimMIM(torch.nn.Module):
    def forward(self, x):
        mask = torch.rand(len(x), 196) < 0.6
        z = self.encoder(x, mask)
        return (((z - x) ** 2).mean(-1) * mask).sum() / mask.sum()
"""
_DROP_PATH = """import torch


def drop_path(x, keep, teacher):
    mask = x.new_empty((x.shape[0], 1)).bernoulli_(keep)
    return x * mask


def mixup(student, teacher, x):
    index = torch.randperm(len(x))
    return student(x[index]), teacher(x)[index]
"""
_FLIP = """import torch


def augment(teacher, x, masks):
    if torch.rand(1) < 0.5:
        x, masks = x.flip(-1), masks.flip(-1)
    return teacher(x, masks=masks)
"""
_ATTENTION = """import torch


def forward(teacher, student, x):
    attn_mask = torch.rand(len(x), 196) < 0.5
    return teacher(x), student(x, attn_mask=attn_mask)
"""


@pytest.mark.parametrize(
    "text", [_MAE, _SIMMIM, _DROP_PATH, _FLIP, _ATTENTION], ids=["mae", "simmim", "drop path", "flip", "attention"]
)
def test_masks_of_other_methods_are_not_judged(text: str) -> None:
    """Without a student that takes them beside a teacher, random masks are no divergence, nor are other draws."""
    (finding,) = MIGRATION.find(Project.of_texts({"a.py": text}))
    assert (finding.state, finding.site) == (State.UNKNOWN, None)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        # Official's rule: stop after the first rectangle that adds anything, and cap each.
        (
            (
                "if delta >= max_mask_patches:\n                        break",
                "pass\n            if delta > 0:\n                break",
            ),
            State.PARTIAL,
        ),
        (("if delta >= max_mask_patches:\n                        break", "return delta"), State.PARTIAL),
        (("if delta >= max_mask_patches:\n                        break", "max_mask_patches -= delta"), State.UNKNOWN),
    ],
)
def test_blocks_that_stop_are_not_said_to_overshoot(change: tuple[str, str], state: State) -> None:
    """Without a cap they are near official's, partial; a budget that is lowered is not followed."""
    assert states(MIGRATION.find, BLOCKS.replace(*change)) == [state]


def test_capped_blocks_that_stop_are_aligned() -> None:
    """With `min` of what is left and a largest block, the copy is official's rule."""
    text = BLOCKS.replace("if delta >= max_mask_patches:\n                        break", "break")
    text = text.replace("num_masking_patches - mask_count)", "min(num_masking_patches - mask_count, 98))")
    assert states(MIGRATION.find, text) == [State.ALIGNED]


def test_official_code_and_port_are_aligned(official_root: Path) -> None:
    """Official's generator and `port`'s, and their uses, are aligned, and nothing else is judged."""
    for root, paths in ((official_root, official_root.rglob("*.py")), (_ROOT, (_ROOT / "port").rglob("*.py"))):
        assert {finding.state for finding in MIGRATION.find(_project(root, paths))} == {State.ALIGNED}


def _project(root: Path, paths: Iterable[Path]) -> Project:
    return Project.of_texts({p.relative_to(root).as_posix(): p.read_text("utf-8") for p in paths})
