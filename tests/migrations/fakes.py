"""Migrations made by hand, so that the engine is tested without any real rule.

The fork of `fake("0006")` calls `old6()`, official code calls `new6()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import libcst as cst

from migrations.engine.edits import replace
from migrations.engine.model import Example, Finding, Level, Migration, State
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.nodes import callee

__all__ = ["fake", "fake_with"]


def fake(
    id_: str,
    level: Level = Level.SAFE,
    depends_on: Sequence[str] = (),
    person: str = "",
    prefilter: bytes | None = None,
) -> Migration:
    """Return a migration that renames calls of `oldN` to `newN`; N is the id without zeros."""
    old, new = f"old{id_.lstrip('0')}", f"new{id_.lstrip('0')}"

    def find(project: Project) -> list[Finding]:
        found = []
        for file in project.matching(migration.prefilter):
            for call in file.nodes(cst.Call):
                if callee(call) == old:
                    found.append(_diverged(id_, level, person, file, call, new))
                elif callee(call) == new:
                    found.append(Finding(id_, State.ALIGNED, f"{new} is called", file.site(call)))
        return found or [Finding(id_, State.UNKNOWN, f"no call of {old} or {new} was found")]

    migration = fake_with(id_, find, depends_on, prefilter or f"{old}|{new}".encode())
    return migration


def fake_with(
    id_: str,
    find: Callable[[Project], list[Finding]],
    depends_on: Sequence[str] = (),
    prefilter: bytes = b"",
) -> Migration:
    """Return a migration with a `find` of the test's own."""
    number = id_.lstrip("0")
    return Migration(
        id=id_,
        title=f"Renaming {number}",
        official="train/train.py:1-2",
        why=f"Why {number} matters.",
        algebra=f"old{number} != new{number}",
        example=Example(f"old{number}()", f"new{number}()"),
        person=f"What {number} leaves to you.",
        checks=("losses.koleo",),
        depends_on=tuple(depends_on),
        prefilter=re.compile(prefilter),
        find=find,
    )


def _diverged(id_: str, level: Level, person: str, file: SourceFile, call: cst.Call, new: str) -> Finding:
    offers = level in (Level.SAFE, Level.UNSAFE, Level.SKELETON)
    return Finding(
        id_,
        State.DIVERGED,
        f"{callee(call)} is called, official calls {new}",
        file.site(call),
        level,
        (replace(file, call.func, new),) if offers else (),
        person,
        ("trainer.py:1 another reader",) if level is Level.BLOCKED else (),
    )
