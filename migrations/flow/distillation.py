"""Whether code trains a student by a teacher, and what an expression in it was made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from migrations.engine.model import Finding, Site, State
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.engine.tree import walk
from migrations.flow.bindings import resolve
from migrations.flow.nodes import find_all

__all__ = ["differs", "distils", "is_evaluation", "sources", "training_files"]

_STUDENT = re.compile(rb"student", re.IGNORECASE)
_TEACHER = re.compile(rb"teacher", re.IGNORECASE)
_EVALUATION = re.compile(
    r"(^|[/_])(evals?|evaluat\w*|linear|knn|probes?|probing|finetun\w*|downstream|tests?)([/_.]|$)"
)
_DEEPEST = 8


def distils(file: SourceFile) -> bool:
    """Whether a file speaks of a student and of a teacher; it is not parsed for that."""
    return file.matches(_STUDENT) and file.matches(_TEACHER)


def is_evaluation(path: str) -> bool:
    """Whether a path is that of an evaluation, which official code too runs under other rules, or of tests."""
    return _EVALUATION.search(path.lower()) is not None


def training_files(project: Project, pattern: re.Pattern[bytes]) -> Iterator[SourceFile]:
    """Yield the matching files of a project in which a student is trained by a teacher, evaluations left out.

    A project in which no file speaks of both has none: what libraries and other trainings do is no difference.
    """
    if any(distils(file) for file in project.files.values() if not is_evaluation(file.path)):
        yield from (file for file in project.matching(pattern) if not is_evaluation(file.path))


def differs(
    id_: str, file: SourceFile, node: cst.CSTNode, evidence: str, person: str, related: Sequence[Site] = ()
) -> Finding:
    """Return an advisory's finding: a site that differs, and no edits."""
    return Finding(id_, State.DIVERGED, evidence, file.site(node), person=person, related=tuple(related))


def sources(file: SourceFile, node: cst.BaseExpression, depth: int = 0) -> Iterator[cst.CSTNode]:
    """Yield the nodes of an expression, and of what the names in it were last assigned, as far as one function tells.

    What a call was given does not become its value, but is yielded too: a caller that must know looks at the calls.
    """
    for part in _parts(node):
        yield part
        if isinstance(part, cst.Name) and depth < _DEEPEST:
            for binding in resolve(file, part):
                if binding.kind in ("assign", "unpack", "loop") and binding.value is not None:
                    yield from sources(file, binding.value, depth + 1)


def _parts(node: cst.BaseExpression) -> list[cst.CSTNode]:
    keywords = {id(arg.keyword) for arg in find_all(node, cst.Arg) if arg.keyword is not None}
    attributes = {id(attribute.attr) for attribute in find_all(node, cst.Attribute)}
    return [part for part in walk(node) if id(part) not in keywords | attributes]
