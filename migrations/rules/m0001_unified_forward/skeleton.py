"""The holes of the unified forward: masks for the surviving call, and marks on what is to go."""

from __future__ import annotations

import libcst as cst

from migrations.engine.edits import insert_before
from migrations.engine.model import Edit, Site
from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.nodes import find_all
from migrations.flow.views import overlap
from migrations.rules.m0001_unified_forward.calls import Forward, Step

__all__ = ["HOLE", "skeleton"]

HOLE = "TODO[parity 0001]"


def skeleton(step: Step, masked: Forward, unmasked: Forward) -> tuple[list[Edit], tuple[Site, ...]]:
    """Return the edits that give the surviving call its masks and mark the rest, and the marked places.

    Empty where the teacher's call on the same crops, or what holds the masks, is not a plain name.

    Args:
        step: the function.
        masked: the call that is to go.
        unmasked: the call that survives.
    """
    file = step.file
    teacher = next((t for t in step.teacher if overlap(list(t.given), list(unmasked.given))), None)
    if teacher is None or masked.masks is None or not masked.keyword:
        return [], ()
    if not all(isinstance(node, cst.Name) for node in (unmasked.images, teacher.images, masked.masks)):
        return [], ()
    crops, globals_, masks = (file.code(node) for node in (unmasked.images, teacher.images, masked.masks))
    n_global = f"len({globals_})"
    value = f"[*{masks}.chunk({n_global}), *[None] * (len({crops}) - {n_global})]"
    marks: list[tuple[cst.CSTNode, str]] = [
        (
            unmasked.call,
            f"the masks need one row for each crop in {globals_}: patch and CLS tokens come from here",
        ),
        (masked.call, f"remove this second call: take the patch tokens of {globals_} from the call above"),
    ]
    marks += [(node, f"draw the masks for all of {globals_} at once") for node in _origin(file, masked.masks)]
    marks += [
        (other.call, f"remove this call: take the patch tokens from the teacher's call on {globals_}")
        for other in step.teacher
        if other is not teacher and step.together(other, masked) and overlap(list(other.given), list(masked.given))
    ]
    edits = [_argument(file, unmasked.call, masked.keyword, value)]
    places = []
    marked: set[int] = set()
    for node, text in marks:
        statement = _line(file, node)
        if statement is not None and id(statement) not in marked:
            marked.add(id(statement))
            edits.append(insert_before(file, statement, f"# {HOLE} {text}"))
            places.append(file.site(statement))
    return edits, tuple(sorted(places))


def _argument(file: SourceFile, call: cst.Call, keyword: str, value: str) -> Edit:
    """Return the edit that gives a call a keyword, in the place of the one that it has or behind its last argument."""
    for arg in call.args:
        if arg.keyword is not None and arg.keyword.value == keyword:
            start, end = file.span(arg.value)
            return Edit(file.path, start, end, value)
    end = file.span(call.args[-1].value)[1]
    return Edit(file.path, end, end, f", {keyword}={value}")


def _origin(file: SourceFile, masks: cst.BaseExpression) -> list[cst.CSTNode]:
    """Return the assignments that make the masks."""
    names = [masks] if isinstance(masks, cst.Name) else find_all(masks, cst.Name)
    return [b.node for name in names for b in resolve(file, name) if b.kind in ("assign", "unpack")]


def _line(file: SourceFile, node: cst.CSTNode) -> cst.BaseStatement | None:
    """Return the statement that begins the line of a node: a comment fits above it."""
    return file.statement(node)
