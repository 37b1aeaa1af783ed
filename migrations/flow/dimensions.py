"""How many dimensions a tensor has, where the text shows it."""

from __future__ import annotations

import re

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import Binding, bindings, resolve
from migrations.flow.calls import Calls, bound_arguments, returned
from migrations.flow.nodes import argument, callee, literal

__all__ = ["dimensions"]

_KEEP_NAMES = (
    "to float half double bool long int cuda cpu detach contiguous clone type type_as normalize softmax "
    "log_softmax bernoulli bernoulli_ ones_like zeros_like rand_like cat concat"
)
_KEEP = frozenset(_KEEP_NAMES.split())
_MAKE = frozenset(("ones", "zeros", "rand", "randn", "empty", "view", "reshape"))
_STEPS = 12


def dimensions(calls: Calls, file: SourceFile, node: cst.BaseExpression, steps: int = _STEPS) -> int | None:
    """Return a tensor's number of dimensions, or None where the text does not show it."""
    if steps <= 0:
        return None
    match node:
        case cst.Name():
            return _of_name(calls, file, node, steps - 1)
        case cst.Call():
            return _of_call(calls, file, node, steps - 1)
        case cst.BinaryOperation():
            sides = [dimensions(calls, file, side, steps - 1) for side in (node.left, node.right)]
            return max((side for side in sides if side), default=None)
        case cst.Comparison():
            return dimensions(calls, file, node.left, steps - 1)
        case cst.UnaryOperation():
            return dimensions(calls, file, node.expression, steps - 1)
    return None


def _of_name(calls: Calls, file: SourceFile, node: cst.Name, steps: int) -> int | None:
    scope = file.function(node)
    if scope is None:
        return None
    sides = [b for b in bindings(scope) if b.kind == "unpack" and _is_shape_of(file, b, node.value)]
    if sides and sum(b.name == node.value for b in bindings(scope)) == 1:
        return len({b.name for b in sides if b.node is sides[0].node})
    found = {_of_binding(calls, file, binding, steps) for binding in resolve(file, node)}
    return found.pop() if len(found) == 1 else None


def _is_shape_of(file: SourceFile, binding: Binding, name: str) -> bool:
    code = file.code(binding.value) if binding.value is not None else ""
    return re.fullmatch(rf"{re.escape(name)}\.(shape|size\(\))", code) is not None


def _of_binding(calls: Calls, file: SourceFile, binding: Binding, steps: int) -> int | None:
    function = file.function(binding.node)
    if binding.kind == "assign" and binding.value is not None:
        return dimensions(calls, file, binding.value, steps)
    if binding.kind != "parameter" or function is None:
        return None
    found = set()
    for there, call in calls.callers(calls.definition(file, function)):
        given = bound_arguments(function, call).get(binding.name)
        found.add(None if given is None else dimensions(calls, there, given, steps))
    return found.pop() if len(found) == 1 else None


def _of_call(calls: Calls, file: SourceFile, call: cst.Call, steps: int) -> int | None:
    name = callee(call)
    meant = calls.target(file, call)
    if meant is not None and isinstance(meant.node, cst.FunctionDef):
        found = {dimensions(calls, meant.file, result, steps) for result in returned(meant.node)}
        return found.pop() if len(found) == 1 else None
    if name in _MAKE:
        return _written(call, skip=0)
    if name == "full":
        shape = argument(call, "size", 0)
        return len(shape.elements) if isinstance(shape, cst.Tuple | cst.List) else None
    method = isinstance(call.func, cst.Attribute) and not _is_module(call.func.value)
    subject = call.func.value if method and isinstance(call.func, cst.Attribute) else argument(call, "input", 0)
    if name == "flatten" and literal(argument(call, "start_dim", 0 if method else 1)) == 1:
        return 2
    if name in _KEEP and subject is not None:
        if isinstance(subject, cst.List | cst.Tuple):
            return dimensions(calls, file, subject.elements[0].value, steps) if subject.elements else None
        return dimensions(calls, file, subject, steps)
    return None


def _written(call: cst.Call, skip: int) -> int | None:
    """Return how many sides a call lists, one by one or in a tuple."""
    sides = [arg for arg in call.args[skip:] if arg.keyword is None]
    if any(arg.star for arg in sides) or not sides:
        return None
    first = sides[0].value
    if len(sides) == 1:
        return len(first.elements) if isinstance(first, cst.Tuple | cst.List) else None
    return len(sides)


def _is_module(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Name) and node.value in ("torch", "F", "np", "numpy", "functional", "nnf")
