"""Transforms that return their views under keys, as official's do: `{"global_crops": […], "local_crops": […]}`."""

from __future__ import annotations

import libcst as cst

from migrations.engine.model import Finding, State
from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.nodes import find_all, literal

__all__ = ["keyed"]

_N_GLOBAL = 2


def keyed(file: SourceFile, function: cst.FunctionDef) -> Finding | None:
    """Return what is known of a function that puts lists of views under keys; None where it does not."""
    entries = _entries(function)
    globals_ = {key: value for key, value in entries.items() if "global" in key.lower()}
    lists = {key: items for key, value in globals_.items() if (items := _list(file, value)) is not None}
    if not lists or not any("local" in key.lower() for key in entries):
        return None
    site = file.site(function)
    counts = {key: len(items) for key, items in lists.items()}
    key = max(counts, key=lambda name: counts[name])
    shown = f"{counts[key]} global views per image, under {key!r}, and local ones"
    if counts[key] > _N_GLOBAL:
        person = "take the global views after the second out of the list once nothing reads them"
        return Finding("0002", State.DIVERGED, f"{shown}; official makes two", site, person=person)
    further = [name for name, value in entries.items() if _is_further(file, name, value)]
    if further or set(counts.values()) != {_N_GLOBAL}:
        what = f"{shown}, and more under {', '.join(map(repr, further))}" if further else shown
        return Finding("0002", State.UNKNOWN, what, site, person="count the global views: official makes two")
    return Finding("0002", State.ALIGNED, shown, site)


def _entries(function: cst.FunctionDef) -> dict[str, cst.BaseExpression]:
    """Return what a function stores under literal keys, by assignment or in a dictionary."""
    found: dict[str, cst.BaseExpression] = {}
    for assign in find_all(function.body, cst.Assign):
        for target in assign.targets:
            if isinstance(target.target, cst.Subscript) and len(target.target.slice) == 1:
                index = target.target.slice[0].slice
                key = literal(index.value) if isinstance(index, cst.Index) else ...
                if isinstance(key, str):
                    found[key] = assign.value
    for element in find_all(function.body, cst.DictElement):
        key = literal(element.key)
        if isinstance(key, str):
            found[key] = element.value
    return found


def _list(file: SourceFile, value: cst.BaseExpression) -> list[cst.BaseExpression] | None:
    """Return the items of a list that is written out, under a name perhaps."""
    if isinstance(value, cst.Name):
        bound = resolve(file, value)
        if len(bound) != 1 or bound[0].value is None:
            return None
        value = bound[0].value
    if not isinstance(value, cst.List) or any(isinstance(e, cst.StarredElement) for e in value.elements):
        return None
    # A list of numbers or texts holds no views.
    items = [element.value for element in value.elements]
    return items if items and all(isinstance(item, cst.Name | cst.Call) for item in items) else None


def _is_further(file: SourceFile, key: str, value: cst.BaseExpression) -> bool:
    """Whether something else that may be a view stands under a key."""
    if "global" in key.lower() or "local" in key.lower():
        return False
    return isinstance(value, cst.Call) or bool(_list(file, value))
