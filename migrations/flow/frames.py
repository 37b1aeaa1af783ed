"""What a group's display, a call and a class say about groups: small readings that layouts are made of."""

from __future__ import annotations

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import Binding
from migrations.flow.groups import Frame, Group
from migrations.flow.nodes import attribute_chain, find_all, literal

__all__ = ["argument_frame", "attribute_values", "changes", "either", "make_group", "returned"]

_DECIDES = ("weight_decay", "wd_multiplier")


def either(found: list[Binding]) -> object:
    """Return None ("either") where one of several bindings is a literal 0, else Ellipsis."""
    zero = any(binding.kind == "assign" and literal(binding.value) == 0 for binding in found)
    return None if zero else ...


def make_group(keys: dict[str, object], file: SourceFile, node: cst.CSTNode) -> Group:
    """Return a group, spared if a key that decides is a literal 0."""
    spared: bool | None = False
    for key in _DECIDES:
        value = keys.get(key, 1.0)
        if value is None or (value is ... and key == "wd_multiplier"):
            spared = None
        elif value == 0:
            return Group(keys, True, file, node)
    return Group(keys, spared, file, node)


def returned(frame: Frame) -> list[cst.BaseExpression]:
    """Return the expressions that a function returns, nested functions left out."""
    scope = frame.scope
    found = find_all(scope.body, cst.Return) if isinstance(scope, cst.FunctionDef) else []
    return [r.value for r in found if r.value is not None and frame.file.function(r) is scope]


def argument_frame(file: SourceFile, function: cst.FunctionDef, call: cst.Call, caller: Frame) -> Frame:
    """Return the frame inside a function that is called, with what its parameters are given."""
    params = [param.name.value for param in (*function.params.posonly_params, *function.params.params)]
    if params[:1] in (["self"], ["cls"]) and isinstance(call.func, cst.Attribute):
        params = params[1:]
    given: dict[str, tuple[cst.BaseExpression, Frame]] = {}
    for position, arg in enumerate(call.args):
        if arg.star:
            break
        if arg.keyword is not None:
            given[arg.keyword.value] = (arg.value, caller)
        elif position < len(params):
            given[params[position]] = (arg.value, caller)
    return Frame(file, function, given, caller.depth + 1)


def attribute_values(
    file: SourceFile, node: cst.Attribute
) -> list[tuple[cst.BaseExpression, cst.FunctionDef | cst.Module]]:
    """Return what `self.x` is assigned in the class around it, each with the method that assigns it."""
    around = next((n for n in file.ancestors(node) if isinstance(n, cst.ClassDef)), None)
    chain = attribute_chain(node)
    return [
        (assign.value, file.function(assign) or file.module)
        for assign in (find_all(around, cst.Assign) if around is not None else [])
        if any(attribute_chain(target.target) == chain for target in assign.targets)
    ]


def changes(frame: Frame, name: cst.Name) -> list[tuple[str, cst.BaseExpression, cst.CSTNode]]:
    """Return `d["key"] = value` and `d.update(…)` in a function, in the order of the text."""
    found: list[tuple[str, cst.BaseExpression, cst.CSTNode]] = []
    for assign in find_all(frame.scope, cst.Assign):
        target = assign.targets[0].target
        if isinstance(target, cst.Subscript) and attribute_chain(target.value) == name.value:
            index = target.slice[0].slice
            if isinstance(index, cst.Index) and isinstance(key := literal(index.value), str):
                found.append((key, assign.value, assign))
    for call in find_all(frame.scope, cst.Call):
        if attribute_chain(call.func) == f"{name.value}.update":
            for arg in call.args:
                if arg.keyword is not None:
                    found.append((arg.keyword.value, arg.value, call))
                elif isinstance(arg.value, cst.Dict):
                    found += [(key, value, call) for key, value in _entries(arg.value)]
    return found


def _entries(node: cst.Dict) -> list[tuple[str, cst.BaseExpression]]:
    """Return the entries of a dict display whose keys are literal strings."""
    entries = [element for element in node.elements if isinstance(element, cst.DictElement)]
    return [(key, entry.value) for entry in entries if isinstance(key := literal(entry.key), str)]
