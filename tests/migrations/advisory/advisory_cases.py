"""What every advisory's tests ask: where it finds something, and that it is silent elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from migrations.engine.model import Finding, Migration, State
from migrations.engine.project import Project

__all__ = ["REPOSITORY", "found", "of_folder", "places"]

REPOSITORY = Path(__file__).parents[3]

_BOTH = "# trains a student by a teacher\n"


def of_folder(folder: Path, below: str = "") -> Project:
    """Return the project of a folder's Python files."""
    paths = sorted((folder / below).rglob("*.py"))
    return Project.of_texts({path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths})


def found(advisory: Migration, texts: str | Mapping[str, str] | Project) -> list[Finding]:
    """Return what an advisory reports: each has a site, differs, and has no edits.

    Line 1 of a single text, `fork.py`, is a comment that says that a student is trained by a teacher.
    """
    if not isinstance(texts, Project):
        by_path = {"fork.py": texts} if isinstance(texts, str) else texts
        texts = Project.of_texts({path: _BOTH + textwrap.dedent(text).lstrip("\n") for path, text in by_path.items()})
    assert not [file.error for file in texts.files.values() if file.error]
    findings = advisory.find(texts)
    assert {(one.state, one.migration, bool(one.site), one.edits) for one in findings} <= {
        (State.DIVERGED, advisory.id, True, ())
    }
    return findings


def places(advisory: Migration, texts: str | Mapping[str, str] | Project) -> list[str]:
    """Return the `path:line` of each finding."""
    return [str(one.site) for one in found(advisory, texts)]
