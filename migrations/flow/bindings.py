"""Who binds a name within one function (or module) and who reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.engine.tree import children
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
    """Return all bindings in a function or module, nested functions and classes left out, in the order of the text.

    Kept, since trees are never changed and a walk through a long function is slow.
    """
    if not isinstance(scope, cst.FunctionDef):
        return list(_bound_in(scope))
    params = [Binding(param.name.value, param.default, param, "parameter") for param in _params(scope.params)]
    return [*params, *_bound_in(scope.body)]


def _params(params: cst.Parameters) -> list[cst.Param]:
    """Return a function's own parameters, not those of lambdas in its defaults."""
    return [child for child in children(params) if isinstance(child, cst.Param)]


def resolve(file: SourceFile, name: cst.Name) -> list[Binding]:
    """Return what a name may have received last, before the place where it is read, in its own function.

    That is the nearest binding above it that surely runs (it is in a block around the read), and every binding
    between the two, but for those in the other branch of an `if`. A loop's later lines are not looked at. Empty where
    the function does not bind it.
    """
    scope = file.function(name) or file.module
    place = file.span(name)[0]
    around = {id(node) for node in file.ancestors(name)}
    arms = _arms(file, name)
    found: list[Binding] = []
    for binding in reversed(bindings(scope)):
        if binding.name != name.value or file.span(binding.node)[0] >= place:
            continue
        if binding.value is not None and _holds(file, binding.value, place):
            # In `x = f(x)` the x that is read is an earlier one.
            continue
        if any(arms.get(condition, arm) != arm for condition, arm in _arms(file, binding.node).items()):
            continue
        found.append(binding)
        statement = file.statement(binding.node)
        block = file.parent(statement) if statement is not None else None
        sure = binding.kind == "parameter" or block is None or id(block) in around
        if sure and binding.kind != "augmented":
            break
    return found


def _arms(file: SourceFile, node: cst.CSTNode) -> dict[int, str]:
    """Return in which branch of each `if` around it a node stands, by the identity of the `if`.

    An `if` inside a loop is left out: what one round binds, the other branch may read in a later round.
    """
    found: dict[int, str] = {}
    inside = node
    for around in file.ancestors(node):
        if isinstance(around, cst.For | cst.While):
            found.clear()
        elif isinstance(around, cst.If) and inside is not around.test:
            found[id(around)] = "body" if inside is around.body else "else"
        inside = around
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


def _bound_in(tree: cst.CSTNode) -> Iterator[Binding]:
    """Yield the bindings below a node, those of functions, lambdas and classes in it left out."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield from _bound_by(node)
        if not isinstance(node, cst.FunctionDef | cst.Lambda | cst.ClassDef):
            waiting.extend(reversed(children(node)))


def _bound_by(node: cst.CSTNode) -> list[Binding]:
    if isinstance(node, cst.Assign):
        return [one for target in node.targets for one in _of(target.target, node.value, node, "assign")]
    if isinstance(node, cst.AnnAssign) and node.value is not None:
        return _of(node.target, node.value, node, "assign")
    if isinstance(node, cst.AugAssign):
        return _of(node.target, node.value, node, "augmented")
    if isinstance(node, cst.NamedExpr):
        return _of(node.target, node.value, node, "assign")
    if isinstance(node, cst.For):
        return _of(node.target, node.iter, node, "loop")
    if isinstance(node, cst.WithItem) and node.asname is not None:
        return _of(node.asname.name, node.item, node, "with")
    return []


def _of(target: cst.CSTNode, value: cst.BaseExpression, node: cst.CSTNode, kind: str) -> list[Binding]:
    kind = "unpack" if kind == "assign" and not isinstance(target, cst.Name) else kind
    return [Binding(name, value, node, kind) for name in target_names(target)]
