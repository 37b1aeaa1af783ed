"""Who takes views out of a batch by their place, and who would be given others if the last one were gone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import libcst as cst

from migrations.engine.model import Site
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.bindings import bindings, reads
from migrations.flow.index import Index
from migrations.flow.nodes import callee, find_all, literal

__all__ = ["Readers", "readers"]

_TRAINS = re.compile(rb"\bbackward\s*\(|\bdef\s+training_step\b|\bdef\s+\w*collate\w*\b|_collate\w*\s*\(")
_DEPTH = 4


@dataclass
class Readers:
    """What was found in the functions that train or collate.

    Attributes:
        takers: places that take views that stay where they are.
        last: places that take the last view, or that count from the end, with the reason.
    """

    takers: list[Site] = field(default_factory=list)
    last: dict[Site, str] = field(default_factory=dict)


def readers(project: Project, index: Index) -> Readers:
    """Return who takes views by their place, in functions that train or collate and in those that they call.

    Args:
        project: the files.
        index: of the definitions, to follow calls.
    """
    found = Readers()
    for file in project.matching(_TRAINS):
        for function in file.nodes(cst.FunctionDef):
            if "collate" in function.name.value or _trains(function):
                for name in _tracked(file, function):
                    _Scope(file, function, index, found).follow(name, _DEPTH)
    return found


def _trains(function: cst.FunctionDef) -> bool:
    return function.name.value == "training_step" or any(
        callee(call) in ("backward", "manual_backward") for call in find_all(function.body, cst.Call)
    )


def _tracked(file: SourceFile, function: cst.FunctionDef) -> list[str]:
    """Return the loop variables and parameters that are taken apart by numbers, or whose copies are."""
    names = {b.name for b in bindings(function) if b.kind in ("loop", "parameter")}
    names |= {b.name for b in bindings(function) if isinstance(b.value, cst.Call) and callee(b.value) == "next"}
    return sorted(name for name in names if _is_taken_apart(file, function, name, _DEPTH))


def _is_taken_apart(file: SourceFile, function: cst.FunctionDef, name: str, depth: int) -> bool:
    for node in reads(file, function, name):
        subscript = file.parent(node)
        if isinstance(subscript, cst.Subscript) and subscript.value is node and _place(subscript) is not None:
            return True
        copy = _copied_to(file, node)
        if depth and copy and copy != name and _is_taken_apart(file, function, copy, depth - 1):
            return True
    return False


@dataclass(frozen=True)
class _Scope:
    file: SourceFile
    function: cst.FunctionDef
    index: Index
    found: Readers

    def follow(self, name: str, depth: int) -> None:
        """Record every use of a name that holds the views, and of its copies."""
        for node in reads(self.file, self.function, name):
            site = self.file.site(node)
            if site in self.found.last or site in self.found.takers:
                continue
            subscript = self.file.parent(node)
            if isinstance(subscript, cst.Subscript) and subscript.value is node:
                self._subscript(subscript, site)
            elif copy := _copied_to(self.file, node):
                if copy != name and depth:
                    self.follow(copy, depth - 1)
            elif "collate" not in self.function.name.value:
                self._whole(node, site, depth)

    def _subscript(self, subscript: cst.Subscript, site: Site) -> None:
        place = _place(subscript)
        if place == "stays":
            self.found.takers.append(site)
        elif place == "last":
            self.found.last[site] = f"reads `{self.file.code(subscript)}`"

    def _whole(self, node: cst.Name, site: Site, depth: int) -> None:
        """Follow the views into a call of the project's; elsewhere, all of them are read."""
        around = self.file.parent(node)
        call = self.file.parent(around) if isinstance(around, cst.Arg) else None
        if isinstance(call, cst.Call) and isinstance(around, cst.Arg):
            if callee(call) in ("len", "isinstance", "enumerate", "type"):
                self.found.last[site] = f"reads `{self.file.code(call)}`"
                return
            meant = self.index.called(self.file, call)
            param = _parameter(meant.node, call, around, bool(meant.owner)) if meant is not None else None
            if meant is not None and param and isinstance(meant.node, cst.FunctionDef) and depth:
                _Scope(meant.file, meant.node, self.index, self.found).follow(param, depth - 1)
                return
            self.found.last[site] = f"gives all views to `{callee(call)}`"
        else:
            self.found.last[site] = f"reads all views, `{node.value}`"


def _parameter(node: cst.CSTNode, call: cst.Call, arg: cst.Arg, is_method: bool) -> str:
    """Return the name under which a function receives an argument; empty where that is not plain."""
    if not isinstance(node, cst.FunctionDef):
        return ""
    if arg.keyword is not None:
        return arg.keyword.value
    names = [param.name.value for param in node.params.params]
    names = names[1:] if is_method and names[:1] == ["self"] else names
    plain = [a for a in call.args if a.keyword is None]
    place = next(i for i, a in enumerate(plain) if a is arg)
    return names[place] if place < len(names) and not any(a.star for a in plain) else ""


def _copied_to(file: SourceFile, node: cst.Name) -> str:
    """Return the name that receives the views one for one: `y = x`, `y = [f(v) for v in x]`, `y, label = x`."""
    whole: cst.CSTNode = node
    parent = file.parent(node)
    if isinstance(parent, cst.CompFor) and parent.iter is node:
        comprehension = file.parent(parent)
        if not isinstance(comprehension, cst.ListComp | cst.GeneratorExp) or parent.ifs:
            return ""
        whole, parent = comprehension, file.parent(comprehension)
    if isinstance(parent, cst.Assign) and parent.value is whole and len(parent.targets) == 1:
        target = parent.targets[0].target
        if isinstance(target, cst.Name):
            return target.value
        if isinstance(target, cst.Tuple) and target.elements and isinstance(target.elements[0].value, cst.Name):
            return target.elements[0].value.value
    return ""


def _place(subscript: cst.Subscript) -> str | None:
    """Return `stays` or `last` for a place that is given by numbers, None for keys, names and several dimensions."""
    if len(subscript.slice) != 1:
        return None
    part = subscript.slice[0].slice
    if isinstance(part, cst.Index):
        number = literal(part.value)
        if not isinstance(number, int) or isinstance(number, bool):
            return None
        return "stays" if number in (0, 1) else "last"
    if not isinstance(part, cst.Slice) or part.step is not None:
        return "last"
    lower, upper = (None if end is None else literal(end) for end in (part.lower, part.upper))
    if (isinstance(lower, int) and lower < 0) or upper is None:
        return "last"
    if isinstance(upper, int):
        return "stays" if 0 <= upper <= 2 else "last"
    # `2 + n_local` is meant to end before the last view; what counts from the end is no such number.
    assert part.upper is not None
    counts = any(callee(call) == "len" for call in find_all(part.upper, cst.Call))
    minus = any(isinstance(op.operator, cst.Minus) for op in find_all(part.upper, cst.UnaryOperation))
    return "last" if counts or minus else "stays"
