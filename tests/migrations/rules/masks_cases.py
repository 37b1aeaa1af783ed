"""Applying the migrations of masks and of normalisation to texts, and running what they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from migrations.engine.model import Finding, Level, State
from migrations.engine.project import Project

__all__ = ["apply", "load", "states"]

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
    exec(compile(text, "miniature.py", "exec"), vars(module))
    return module
