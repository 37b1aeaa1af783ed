"""Which part of which data an expression holds: `batch[:2] + batch[2:4]` under all the names that it is given."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import Binding, resolve
from migrations.flow.nodes import attribute_chain, callee, literal

__all__ = ["Part", "overlap", "parts"]

_SAME = {"to", "cuda", "cpu", "half", "float", "bfloat16", "double", "contiguous", "detach", "clone", "type", "flatten"}
_JOINS = {"cat", "concat", "concatenate", "stack", "list", "tuple"}
_DEPTH = 12


@dataclass(frozen=True)
class Part:
    """A root and a place in it.

    Attributes:
        root: the name, or attribute, where following ends: a parameter, a loop variable, the result of a call.
        place: the subscript, as written: `:2`, `-1`, `"key"`; empty for all of it.
    """

    root: str
    place: str = ""

    def __str__(self) -> str:
        """Return it as code."""
        return f"{self.root}[{self.place}]" if self.place else self.root


def parts(file: SourceFile, node: cst.BaseExpression, depth: int = _DEPTH) -> list[Part]:
    """Return what an expression is made of, in order; empty where that cannot be followed.

    Moves to a device and casts are looked through, as are names, concatenations, lists and copies by comprehension.
    """
    if not depth:
        return []
    if isinstance(node, cst.Name):
        return _named(file, node, depth)
    if isinstance(node, cst.Subscript):
        return _subscripted(file, node, depth)
    if isinstance(node, cst.Attribute):
        chain = attribute_chain(node)
        return [Part(chain)] if chain else []
    if isinstance(node, cst.Call):
        if isinstance(node.func, cst.Attribute) and callee(node) in _SAME:
            return parts(file, node.func.value, depth - 1)
        return parts(file, node.args[0].value, depth - 1) if callee(node) in _JOINS and node.args else []
    if isinstance(node, cst.ListComp | cst.GeneratorExp) and not node.for_in.ifs and node.for_in.inner_for_in is None:
        return parts(file, node.for_in.iter, depth - 1)
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Add):
        return _all(parts(file, node.left, depth - 1), parts(file, node.right, depth - 1))
    if isinstance(node, cst.List | cst.Tuple):
        return _all(*(parts(file, element.value, depth - 1) for element in node.elements))
    return []


def overlap(left: list[Part], right: list[Part]) -> bool | None:
    """Return whether two expressions share data; None where that is not certain."""
    certain = bool(left and right)
    for one in left:
        for other in right:
            if one.root != other.root:
                continue
            if one.place == other.place or not one.place or not other.place:
                return True
            certain = certain and _apart(one.place, other.place)
    return False if certain else None


def _apart(left: str, right: str) -> bool:
    """Whether two places surely have nothing in common."""
    if left[:1] in "'\"" and right[:1] in "'\"":
        return True  # two keys
    bounds = [[end.strip() for end in place.split(":")] for place in (left, right)]
    for one, other in (bounds, bounds[::-1]):
        # `x[:n]` ends where `x[n:]` begins.
        if len(one) == 2 and len(other) == 2 and one[1] and one[1] == other[0]:
            return True
    single, ranged = sorted(bounds, key=len)
    if len(single) == len(ranged) == 1:
        return single != ranged
    # `x[-1]` is no part of `x[:2]`, nor of `x[2 : 2 + n]`, as far as the program means what it says.
    return len(single) == 1 and len(ranged) == 2 and bool(ranged[1]) and not ranged[1].startswith("-")


def _all(*found: list[Part]) -> list[Part]:
    """Join parts; nothing where one of them is not known."""
    return [part for one in found for part in one] if all(found) else []


def _named(file: SourceFile, node: cst.Name, depth: int) -> list[Part]:
    bound = resolve(file, node)
    if len(bound) != 1 or bound[0].value is None:
        return [Part(node.value)]
    binding = bound[0]
    value = _unpacked(binding, node.value) if binding.kind == "unpack" else binding.value
    if binding.kind not in ("assign", "unpack") or value is None:
        return [Part(node.value)]
    return parts(file, value, depth - 1) or [Part(node.value)]


def _unpacked(binding: Binding, name: str) -> cst.BaseExpression | None:
    """Return the element of `a, b = x, y` that a name receives."""
    value = binding.value
    if not isinstance(binding.node, cst.Assign) or not isinstance(value, cst.Tuple):
        return None
    for target in binding.node.targets:
        if isinstance(target.target, cst.Tuple) and len(target.target.elements) == len(value.elements):
            for one, given in zip(target.target.elements, value.elements, strict=True):
                if isinstance(one.value, cst.Name) and one.value.value == name:
                    return given.value
    return None


def _subscripted(file: SourceFile, node: cst.Subscript, depth: int) -> list[Part]:
    base = parts(file, node.value, depth - 1)
    if len(base) != 1 or len(node.slice) != 1:
        return []
    part = node.slice[0].slice
    place = file.code(part).strip()
    if isinstance(part, cst.Index) and isinstance(literal(part.value), str):
        place = repr(literal(part.value))
    return [Part(base[0].root, place) if not base[0].place else Part(str(base[0]), place)]
