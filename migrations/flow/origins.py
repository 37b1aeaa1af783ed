"""Where a value may come from: the expressions that it is made of, across assignments and calls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

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
    """Return the calls that change what a local name holds: `x.scatter_(…)`, `shuffle(x)`, `x.append(…)`."""
    scope = file.function(node)
    changes = _in_place(file).get(node.value, []) if scope is not None else []
    if not changes or scope is None or not any(binding.name == node.value for binding in bindings(scope)):
        return []
    start, end = file.span(scope)
    return [change for change in changes if start <= file.span(change)[0] < end]


@lru_cache(maxsize=512)
def _in_place(file: SourceFile) -> dict[str, list[cst.CSTNode]]:
    """Return the changes of a file by the name of what is changed."""
    found: dict[str, list[cst.CSTNode]] = {}
    for call in file.nodes(cst.Call):
        name, receiver = callee(call), call.func.value if isinstance(call.func, cst.Attribute) else None
        first = call.args[0].value if call.args else None
        if isinstance(receiver, cst.Name) and name.endswith("_"):
            found.setdefault(receiver.value, []).append(call)
        elif isinstance(receiver, cst.Name) and name in ("append", "extend"):
            found.setdefault(receiver.value, []).extend(arg.value for arg in call.args)
        elif isinstance(first, cst.Name) and name == "shuffle":
            found.setdefault(first.value, []).append(call)
    return found


def _given(calls: Calls, attribute: str) -> list[tuple[SourceFile, cst.CSTNode]]:
    """Return what objects are made with under a keyword, or receive as an attribute."""
    encoded = attribute.encode()
    files = [file for file in calls.index.files if encoded in file.data]
    return [(file, value) for file in files for value in _attributes(file).get(attribute, [])]


@lru_cache(maxsize=512)
def _attributes(file: SourceFile) -> dict[str, list[cst.CSTNode]]:
    """Return the keyword arguments of a file, and what its attributes receive, by name."""
    found: dict[str, list[cst.CSTNode]] = {}
    for arg in file.nodes(cst.Arg):
        if arg.keyword is not None:
            found.setdefault(arg.keyword.value, []).append(arg.value)
    for assign in file.nodes(cst.Assign):
        for target in assign.targets:
            if isinstance(target.target, cst.Attribute):
                found.setdefault(target.target.attr.value, []).append(assign.value)
    return found


def _keyed(calls: Calls, key: str) -> list[tuple[SourceFile, cst.CSTNode]]:
    """Return what dictionaries of the project hold under a key."""
    encoded = key.encode()
    files = [file for file in calls.index.files if encoded in file.data]
    return [(file, value) for file in files for value in _dictionaries(file).get(key, [])]


@lru_cache(maxsize=512)
def _dictionaries(file: SourceFile) -> dict[str, list[cst.CSTNode]]:
    found: dict[str, list[cst.CSTNode]] = {}
    for element in (e for d in file.nodes(cst.Dict) for e in d.elements if isinstance(e, cst.DictElement)):
        if isinstance(name := literal(element.key), str):
            found.setdefault(name, []).append(element.value)
    return found
