"""Applying one migration to texts, as the tests of 0001, 0002 and 0004 do it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from migrations.engine.model import Finding, Level, Migration, State
from migrations.engine.project import Project

__all__ = ["code", "findings", "one", "rewritten", "states"]


def code(text: str) -> str:
    """Return an indented text as a file."""
    return textwrap.dedent(text).strip("\n") + "\n"


def findings(migration: Migration, files: Mapping[str, str] | str) -> list[Finding]:
    """Return what a migration says of a file or of several."""
    texts = {"fork.py": files} if isinstance(files, str) else files
    return migration.find(Project.of_texts(texts))


def one(migration: Migration, files: Mapping[str, str] | str) -> Finding:
    """Return the only finding."""
    (finding,) = findings(migration, files)
    return finding


def states(migration: Migration, files: Mapping[str, str] | str) -> set[State]:
    """Return the states of all findings."""
    return {finding.state for finding in findings(migration, files)}


def rewritten(
    migration: Migration, files: Mapping[str, str] | str, level: Level, *, settled: bool = True
) -> dict[str, str]:
    """Return the texts after all edits, which must be of a level; a second run must find nothing to edit.

    Args:
        migration: that is applied.
        files: a file, or texts by path.
        level: that every finding with edits must have.
        settled: whether the second run must report nothing that is diverged or unknown.
    """
    texts = {"fork.py": files} if isinstance(files, str) else dict(files)
    project = Project.of_texts(texts)
    found = [finding for finding in migration.find(project) if finding.edits]
    assert found, "nothing to rewrite"
    assert {finding.level for finding in found} == {level}
    after = project.with_edits(edit for finding in found for edit in finding.edits)
    again = migration.find(after)
    assert [finding for finding in again if finding.edits] == []
    if settled:
        assert {finding.state for finding in again} <= {State.ALIGNED, State.NOT_APPLICABLE}
    for path, file in after.files.items():
        compile(file.text, path, "exec")
    return {path: file.text for path, file in after.files.items()} | dict(after.texts)
