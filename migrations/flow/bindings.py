"""Who binds a name within one function (or module) and who reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.nodes import find_all, target_names

__all__ = ["Binding", "bindings", "reads", "resolve"]


@dataclass(frozen=True)
class Binding:
    """A name receives a value.

    Attributes:
        name: that is bound.
        value: the expression; for a loop, what is iterated over; for an unpacked tuple, the whole right side.
        node: the assignment, the loop, the `with` item or the parameter.
        kind: `assign`, `augmented`, `unpack`, `loop`, `with` or `parameter`.
    """

    name: str
    value: cst.BaseExpression | None
    node: cst.CSTNode
    kind: str


@lru_cache(maxsize=4096)
def bindings(scope: cst.FunctionDef | cst.Module) -> list[Binding]:
    """Return all bindings in a function or module, nested functions left out, in the order of the text.

    Kept, since trees are never changed and a walk through a long function is slow.
    """
    collector = _Collector()
    if isinstance(scope, cst.FunctionDef):
        for param in find_all(scope.params, cst.Param):
            collector.found.append(Binding(param.name.value, param.default, param, "parameter"))
    scope.body.visit(collector) if isinstance(scope, cst.FunctionDef) else scope.visit(collector)
    return collector.found


def resolve(file: SourceFile, name: cst.Name) -> list[Binding]:
    """Return what a name may have received last, before the place where it is read, in its own function.

    That is the nearest binding above it that surely runs (it is in a block around the read), and every binding
    between the two. A loop's later lines are not looked at. Empty where the function does not bind it.
    """
    scope = file.function(name) or file.module
    place = file.span(name)[0]
    around = {id(node) for node in file.ancestors(name)}
    found: list[Binding] = []
    for binding in reversed(bindings(scope)):
        if binding.name != name.value or file.span(binding.node)[0] >= place:
            continue
        if binding.value is not None and _holds(file, binding.value, place):
            # In `x = f(x)` the x that is read is an earlier one.
            continue
        found.append(binding)
        statement = file.statement(binding.node)
        block = file.parent(statement) if statement is not None else None
        sure = binding.kind == "parameter" or block is None or id(block) in around
        if sure and binding.kind != "augmented":
            break
    return found


def _holds(file: SourceFile, node: cst.CSTNode, place: int) -> bool:
    start, end = file.span(node)
    return start <= place < end


def reads(file: SourceFile, scope: cst.FunctionDef | cst.Module, name: str) -> list[cst.Name]:
    """Return the places in a function, nested ones included, that read a name: not those that bind it."""
    bound = {id(target) for binding in _all_targets(scope) for target in binding}
    found = []
    for node in find_all(scope, cst.Name):
        parent = file.parent(node)
        is_part = (isinstance(parent, cst.Attribute) and parent.attr is node) or (
            isinstance(parent, cst.Arg) and parent.keyword is node
        )
        is_definition = isinstance(parent, cst.Param | cst.FunctionDef | cst.ClassDef) and parent.name is node
        if node.value == name and not is_part and not is_definition and id(node) not in bound:
            found.append(node)
    return found


def _all_targets(scope: cst.CSTNode) -> list[list[cst.Name]]:
    targets: list[cst.CSTNode] = [assign.target for assign in find_all(scope, cst.AssignTarget)]
    targets += [assign.target for assign in find_all(scope, cst.AnnAssign)]
    targets += [loop.target for loop in find_all(scope, cst.For)]
    # A name in a subscript or attribute of a target is read, not bound.
    return [[n for n in find_all(t, cst.Name) if isinstance(t, cst.Name | cst.Tuple | cst.List)] for t in targets]


class _Collector(cst.CSTVisitor):
    def __init__(self) -> None:
        self.found: list[Binding] = []

    def _add(self, target: cst.CSTNode, value: cst.BaseExpression | None, node: cst.CSTNode, kind: str) -> None:
        whole = isinstance(target, cst.Name)
        for name in target_names(target):
            self.found.append(Binding(name, value, node, kind if whole or kind != "assign" else "unpack"))

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:  # noqa: N802 - LibCST's name
        return False

    def visit_Lambda(self, node: cst.Lambda) -> bool:  # noqa: N802 - LibCST's name
        return False

    def visit_Assign(self, node: cst.Assign) -> None:  # noqa: N802 - LibCST's name
        for target in node.targets:
            self._add(target.target, node.value, node, "assign")

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:  # noqa: N802 - LibCST's name
        if node.value is not None:
            self._add(node.target, node.value, node, "assign")

    def visit_AugAssign(self, node: cst.AugAssign) -> None:  # noqa: N802 - LibCST's name
        self._add(node.target, node.value, node, "augmented")

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:  # noqa: N802 - LibCST's name
        self._add(node.target, node.value, node, "assign")

    def visit_For(self, node: cst.For) -> None:  # noqa: N802 - LibCST's name
        self._add(node.target, node.iter, node, "loop")

    def visit_WithItem(self, node: cst.WithItem) -> None:  # noqa: N802 - LibCST's name
        if node.asname is not None:
            self._add(node.asname.name, node.item, node, "with")
