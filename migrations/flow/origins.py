"""Where a value may come from: the expressions that it is made of, across assignments and calls."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import bindings, resolve
from migrations.flow.calls import Calls, bound_arguments, returned
from migrations.flow.nodes import callee, literal

__all__ = ["origins"]

_LIMIT = 400


def origins(calls: Calls, file: SourceFile, node: cst.BaseExpression) -> Iterator[tuple[SourceFile, cst.CSTNode]]:
    """Yield the expressions from which a value may be made, nearest first, and statements that change it in place."""
    queue: list[tuple[SourceFile, cst.CSTNode]] = [(file, node)]
    seen: set[int] = set()
    while queue and len(seen) < _LIMIT:
        there, one = queue.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield there, one
        queue += _before(calls, there, one)


def _before(calls: Calls, file: SourceFile, node: cst.CSTNode) -> list[tuple[SourceFile, cst.CSTNode]]:
    """Return what one expression is made of."""
    match node:
        case cst.Name():
            return _of_name(calls, file, node)
        case cst.Attribute():
            return _given(calls, node.attr.value)
        case cst.Subscript():
            index = node.slice[0].slice
            key = literal(index.value) if isinstance(index, cst.Index) else ...
            return _keyed(calls, key) if isinstance(key, str) else [(file, node.value)]
        case cst.Call():
            meant = calls.target(file, node)
            if meant is not None and isinstance(meant.node, cst.FunctionDef):
                return [(meant.file, result) for result in returned(meant.node)]
            inner = [node.func.value] if isinstance(node.func, cst.Attribute) else []
            return [(file, part) for part in [*inner, *(arg.value for arg in node.args)]]
        case cst.ListComp() | cst.GeneratorExp():
            return [(file, node.elt), (file, node.for_in.iter)]
        case cst.IfExp():
            return [(file, node.body), (file, node.orelse)]
        case cst.BinaryOperation():
            return [(file, node.left), (file, node.right)]
        case cst.UnaryOperation():
            return [(file, node.expression)]
        case cst.Comparison():
            return [(file, node.left), *((file, target.comparator) for target in node.comparisons)]
        case cst.Tuple() | cst.List():
            return [(file, element.value) for element in node.elements]
    return []


def _of_name(calls: Calls, file: SourceFile, node: cst.Name) -> list[tuple[SourceFile, cst.CSTNode]]:
    found: list[tuple[SourceFile, cst.CSTNode]] = []
    for binding in resolve(file, node):
        function = file.function(binding.node)
        if binding.kind == "parameter" and function is not None:
            for there, call in calls.callers(calls.definition(file, function)):
                given = bound_arguments(function, call).get(binding.name)
                found += [(there, given)] if given is not None else []
        elif binding.value is not None:
            found.append((file, binding.value))
    return found + [(file, change) for change in _changes(file, node)]


def _changes(file: SourceFile, node: cst.Name) -> list[cst.CSTNode]:
    """Return the calls that change what a name holds: `x.scatter_(…)`, `shuffle(x)`, and what `x[…] = …` indexes by."""
    scope = file.function(node)
    if scope is None or not any(binding.name == node.value for binding in bindings(scope)):
        return []
    start, end = file.span(scope)
    inside = [call for call in file.nodes(cst.Call) if start <= file.span(call)[0] < end]
    found: list[cst.CSTNode] = []
    for call in inside:
        method = isinstance(call.func, cst.Attribute) and _is(call.func.value, node.value)
        first = call.args[0].value if call.args else None
        if (method and callee(call).endswith("_")) or (callee(call) in ("shuffle", "append") and _is(first, node.value)):
            found.append(call)
        elif method and callee(call) in ("append", "extend"):
            found += [arg.value for arg in call.args]
    return found


def _is(node: cst.CSTNode | None, name: str) -> bool:
    return isinstance(node, cst.Name) and node.value == name


def _given(calls: Calls, attribute: str) -> list[tuple[SourceFile, cst.CSTNode]]:
    """Return what objects are made with under a keyword, or receive as an attribute."""
    found: list[tuple[SourceFile, cst.CSTNode]] = []
    for file in calls.index.files:
        if attribute.encode() not in file.data:
            continue
        for arg in file.nodes(cst.Arg):
            if arg.keyword is not None and arg.keyword.value == attribute:
                found.append((file, arg.value))
        for assign in file.nodes(cst.Assign):
            if any(isinstance(t.target, cst.Attribute) and t.target.attr.value == attribute for t in assign.targets):
                found.append((file, assign.value))
    return found


def _keyed(calls: Calls, key: str) -> list[tuple[SourceFile, cst.CSTNode]]:
    """Return what dictionaries of the project hold under a key."""
    found: list[tuple[SourceFile, cst.CSTNode]] = []
    for file in calls.index.files:
        if key.encode() in file.data:
            elements = [e for d in file.nodes(cst.Dict) for e in d.elements if isinstance(e, cst.DictElement)]
            found += [(file, element.value) for element in elements if literal(element.key) == key]
    return found
