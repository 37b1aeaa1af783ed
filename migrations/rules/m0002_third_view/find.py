"""What is said of a transform's views, and the edits that remove a third global one."""

from __future__ import annotations

import re

import libcst as cst

from migrations.engine.edits import delete_statement
from migrations.engine.model import Edit, Finding, Level, Site, State
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.index import Index
from migrations.flow.nodes import find_all
from migrations.rules.m0002_third_view.keyed import keyed
from migrations.rules.m0002_third_view.readers import Readers, readers
from migrations.rules.m0002_third_view.sizes import definitions
from migrations.rules.m0002_third_view.views import View, Views, views_of

__all__ = ["PREFILTER", "find"]

# What timm's models say of their evaluation makes no views.
PREFILTER = re.compile(rb"[cC]rop(?!_pct|_mode)")
_MAKES = re.compile(rb"\bappend\b|\bextend\b|\+=|\[")
_SEVERAL = re.compile(rb"\bfor\b|\]\s*\*")

_N_GLOBAL = 2


def find(project: Project) -> list[Finding]:
    """Return a finding per function that makes global and local views of an image."""
    found: list[Finding] = []
    for file in project.matching(PREFILTER):
        for function in file.nodes(cst.FunctionDef):
            start, end = file.span(function)
            if not (_MAKES.search(file.data, start, end) and _SEVERAL.search(file.data, start, end)):
                continue
            if (finding := keyed(file, function)) is not None:
                found.append(finding)
            elif (views := views_of(file, function)) is not None:
                found.append(_judged(project, views))
    if found:
        return found
    evidence = "no function that makes global views and, in a loop, local views of an image was found"
    return [Finding("0002", State.UNKNOWN, evidence, person="see how many global crops per image reach the student")]


def _judged(project: Project, views: Views) -> Finding:
    file, site = views.file, views.file.site(views.function)
    n_global = len(views.globals_)
    names = ", ".join(view.transform for view in views.globals_)
    counted = f"{n_global} global views per image ({names}) and local ones in a loop ({views.locals_[0].transform})"
    if views.unclear:
        view = views.unclear[0]
        why = (
            "under a condition"
            if view.conditional
            else "as many as something configures"
            if view.looped
            else "of a size that could not be read"
        )
        evidence = f"{counted}, and {view.transform} {why}, so the number of global views is not known"
        return Finding("0002", State.UNKNOWN, evidence, file.site(view.node), person="count them: official makes two")
    if n_global == _N_GLOBAL:
        return Finding("0002", State.ALIGNED, counted, site)
    if n_global < _N_GLOBAL:
        evidence = f"{n_global} global view per image ({names}), official makes two"
        return Finding("0002", State.UNKNOWN, evidence, site, person="see where the second one is made")
    return _third(project, views, counted)


def _third(project: Project, views: Views, counted: str) -> Finding:
    """Judge a list with three or more global views, of which those after the second are too many."""
    file, extra = views.file, views.globals_[_N_GLOBAL:]
    evidence = f"{counted}; official makes two, which serve DINO and iBOT"
    site = file.site(extra[0].node)
    is_last = len(extra) == 1 and extra[0] is views.views[-1]
    if not is_last:
        person = "take the global views after the second out of the list, and mend every index behind them"
        return Finding("0002", State.DIVERGED, evidence, site, person=person)
    found = readers(project, Index(project))
    if found.last:
        return _blocked(evidence, site, found)
    edits, kept = _removal(views, extra[0])
    if not edits:
        return Finding("0002", State.DIVERGED, evidence, site, person=f"remove {extra[0].transform} and its view")
    proven = bool(found.takers)
    evidence += (
        f"; nothing reads the last one, {len(found.takers)} places take views by their index"
        if proven
        else "; no training loop that takes views by their index was found"
    )
    person = f"the definition of {extra[0].transform} stays: {kept}" if kept else ""
    if not proven:
        person = "make sure that nothing outside of these files reads the last view; " + person
    level = Level.SAFE if proven else Level.UNSAFE
    return Finding("0002", State.DIVERGED, evidence, site, level, tuple(edits), person.removesuffix("; "))


def _blocked(evidence: str, site: Site, found: Readers) -> Finding:
    return Finding(
        "0002",
        State.DIVERGED,
        f"{evidence}; {len(found.last)} place{'s' * (len(found.last) > 1)} would be given another view without it",
        site,
        Level.BLOCKED,
        person="let iBOT use the two global views (migration 0001), and count no view from the end of the list",
        blocked_by=tuple(f"{where} {why}" for where, why in sorted(found.last.items())),
        related=tuple(sorted(found.last)),
    )


def _removal(views: Views, view: View) -> tuple[list[Edit], str]:
    """Return the edits that remove a view, and why the definition of its transform stays, if it does."""
    file = views.file
    statement = file.statement(view.node)
    if statement is None or not _is_all_of(statement, view.node):
        edit = _from_list(file, view.node)
        if edit is None:
            return [], ""
        edits = [edit]
    else:
        edits = [delete_statement(file, statement)]
    name = view.transform.removeprefix("self.")
    makers = definitions(file, views.function, _chain(view.node))
    others = [n for n in find_all(file.module, cst.Attribute) if n.attr.value == name and not _is_target(file, n)]
    if "." in name or len(others) != 1 or len(makers) != 1:
        return edits, "other code reads it" if len(others) > 1 else "it is not an attribute that is set once"
    made = file.statement(makers[0])
    if made is None or not isinstance(made, cst.SimpleStatementLine) or len(made.body) != 1:
        return edits, "it shares its line with other code"
    return [*edits, _with_comment(file, made, delete_statement(file, made))], ""


def _with_comment(file: SourceFile, statement: cst.SimpleStatementLine, edit: Edit) -> Edit:
    """Let the comment lines directly above a definition, and the blank line above those, go with it."""
    first = file.line(statement)
    while first > 1 and _text(file, first - 1).startswith("#"):
        first -= 1
    block = file.parent(statement)
    if first > 1 and not _text(file, first - 1) and isinstance(block, cst.IndentedBlock) and not edit.text:
        first -= 1
    return Edit(edit.path, file.line_span(first)[0], edit.end, edit.text)


def _text(file: SourceFile, line: int) -> str:
    start, end = file.line_span(line)
    return file.data[start:end].decode().strip()


def _chain(node: cst.CSTNode) -> cst.CSTNode:
    return node.func if isinstance(node, cst.Call) else node


def _is_target(file: SourceFile, node: cst.CSTNode) -> bool:
    return isinstance(file.parent(node), cst.AssignTarget | cst.AnnAssign)


def _is_all_of(statement: cst.BaseStatement, node: cst.CSTNode) -> bool:
    """Whether a line does nothing but put one view into the list: `crops.append(view)`, `crops += [view]`."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return False
    small = statement.body[0]
    if isinstance(small, cst.AugAssign) and isinstance(small.value, cst.List):
        return len(small.value.elements) == 1
    return isinstance(small, cst.Expr) and isinstance(small.value, cst.Call) and small.value.args[0].value is node


def _from_list(file: SourceFile, node: cst.CSTNode) -> Edit | None:
    """Return the edit that takes the last element out of a list of several."""
    element = file.parent(node)
    display = file.parent(element) if element is not None else None
    if not isinstance(display, cst.List) or len(display.elements) < _N_GLOBAL or display.elements[-1] is not element:
        return None
    return Edit(file.path, file.span(display.elements[-2])[1], file.span(element)[1], "")
