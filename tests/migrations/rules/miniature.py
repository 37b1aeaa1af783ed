"""Small code bases as texts: find, apply, apply again, find again, compile, run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrations.engine.model import Finding, Level, Migration, State, overall
from migrations.engine.project import Project
from migrations.engine.source import SourceFile

__all__ = ["applied", "apply_and_check", "find", "folder", "only", "project", "run"]

MAIN = "trainer.py"


def project(texts: str | Mapping[str, str]) -> Project:
    """Return a project of one text, `trainer.py`, or of several by path; common indentation is removed."""
    by_path = {MAIN: texts} if isinstance(texts, str) else texts
    return Project.of_texts({path: textwrap.dedent(text) for path, text in by_path.items()})


def folder(root: Path) -> Project:
    """Return a project of the Python files of a folder."""
    paths = sorted(root.rglob("*.py"))
    return Project(SourceFile(path.relative_to(root).as_posix(), path.read_text("utf-8")) for path in paths)


def find(migration: Migration, texts: str | Mapping[str, str] | Project) -> list[Finding]:
    """Return what a migration finds in texts."""
    return migration.find(texts if isinstance(texts, Project) else project(texts))


def only(migration: Migration, texts: str | Mapping[str, str] | Project) -> Finding:
    """Return the one finding of texts that have one; where there are more, those are shown."""
    found = find(migration, texts)
    assert len(found) == 1, "\n".join(f"{one.state.value} {one.site}: {one.evidence}" for one in found)
    return found[0]


def applied(migration: Migration, before: Project) -> Project:
    """Return what the edits of all findings leave; it is parsed anew, so it is Python."""
    return before.with_edits(edit for finding in migration.find(before) for edit in finding.edits)


def apply_and_check(
    migration: Migration, before: str | Mapping[str, str], after: str | Mapping[str, str], level: Level = Level.SAFE
) -> Project:
    """Apply a migration and return the result, which must be `after` to the byte, and final.

    Checked besides: the findings that have edits are of this level, the result compiles, nothing in it is edited
    again, and it counts as aligned.
    """
    old = before if isinstance(before, Project) else project(before)
    levels = {finding.level for finding in migration.find(old) if finding.edits}
    assert levels == {level}, [(f.level.value, f.evidence, f.person) for f in migration.find(old)]
    new = applied(migration, old)
    expected = project(after)
    assert {path: file.text for path, file in new.files.items()} == {p: f.text for p, f in expected.files.items()}
    for path, file in new.files.items():
        compile(file.text, path, "exec")
    again = migration.find(new)
    assert not any(finding.edits for finding in again)
    assert applied(migration, new).files.keys() == new.files.keys()
    assert overall(again) is State.ALIGNED, [(one.state.value, str(one.site), one.evidence) for one in again]
    return new


def run(new: Project, path: str = MAIN, **given: Any) -> dict[str, Any]:
    """Run a file of a project and return the names it leaves; `given` are there from the start."""
    names: dict[str, Any] = {"__name__": "miniature", **given}
    exec(compile(new.files[path].text, path, "exec"), names)  # noqa: S102 - the tests' own texts
    return names
