"""Applying the migrations of masks and of normalisation to texts, and running what they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch

from migrations.engine.model import Finding, Level, State
from migrations.engine.project import Project

__all__ = ["apply", "load", "rows_of_three_counts", "states"]

Find = Callable[[Project], list[Finding]]


def apply(find: Find, texts: Mapping[str, str], level: Level) -> dict[str, str]:
    """Return the texts that all edits leave; assert their level, and that a second run has none and changes nothing."""
    project = Project.of_texts(texts)
    edits = [edit for finding in find(project) for edit in finding.edits]
    assert edits, "nothing was mended"
    assert {finding.level for finding in find(project) if finding.edits} == {level}
    after = project.with_edits(edits)
    again = find(after)
    assert [edit for finding in again for edit in finding.edits] == []
    assert {finding.state for finding in again} == {State.ALIGNED}
    return {path: file.text for path, file in after.files.items()}


def states(find: Find, *texts: str) -> list[State]:
    """Return the states of the findings of files."""
    return [finding.state for finding in find(Project.of_texts({f"file{n}.py": t for n, t in enumerate(texts)}))]


def load(text: str, **known: object) -> Any:
    """Return a module that a text makes; `known` are names that it may use."""
    module = ModuleType("miniature")
    vars(module).update(known)
    exec(compile(text, "miniature.py", "exec"), vars(module))  # noqa: S102 - a miniature that this suite wrote
    return module


def rows_of_three_counts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
