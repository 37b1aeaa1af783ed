"""Small questions about single nodes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeVar, cast

import libcst as cst
import libcst.matchers as m

from migrations.engine.tree import walk

__all__ = ["argument", "attribute_chain", "callee", "find_all", "literal", "names_in", "target_names"]

NodeT = TypeVar("NodeT", bound=cst.CSTNode)

# Told by their class, since generating their code only to see that it is none takes most of a walk's time.
_NO_LITERALS = (cst.Call, cst.Attribute, cst.Subscript, cst.Comparison, cst.BooleanOperation, cst.IfExp, cst.ListComp)


def find_all(tree: cst.CSTNode, kind: type[NodeT]) -> list[NodeT]:
    """Return the nodes of a kind below (or at) a node, in the order of the text."""
    known: dict[type[cst.CSTNode], bool] = {}
    found = []
    for node in walk(tree):
        # Asked once for each class: for LibCST's abstract ones, `isinstance` takes longer than the walk.
        of = type(node)
        if of not in known:
            known[of] = issubclass(of, kind)
        if known[of]:
            found.append(cast("NodeT", node))
    return found


def attribute_chain(node: cst.CSTNode) -> str:
    """Return `a.b.c` for a name or a chain of attributes; subscripts and calls in it make it empty."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    return ".".join([node.value, *reversed(parts)]) if isinstance(node, cst.Name) else ""


def callee(call: cst.Call) -> str:
    """Return the last name of what is called: `bernoulli` for `torch.bernoulli(…)` and for `x.bernoulli(…)`."""
    func = call.func
    if isinstance(func, cst.Attribute):
        return func.attr.value
    return func.value if isinstance(func, cst.Name) else ""


def argument(call: cst.Call, keyword: str, position: int | None = None) -> cst.BaseExpression | None:
    """Return an argument of a call by keyword or else by position; None where it is not given, or behind a star."""
    for arg in call.args:
        if arg.keyword is not None and arg.keyword.value == keyword:
            return arg.value
    if position is None:
        return None
    plain = [arg for arg in call.args if arg.keyword is None]
    if position >= len(plain) or any(arg.star for arg in plain[: position + 1]):
        return None
    return plain[position].value


def literal(node: cst.CSTNode | None) -> object:
    """Return the value of a literal (number, string, tuple, list, dict, None, True); Ellipsis where it is none."""
    if node is None or isinstance(node, _NO_LITERALS):
        return ...
    if isinstance(node, cst.Name) and node.value not in ("None", "True", "False"):
        return ...
    try:
        value: object = ast.literal_eval(cst.Module([]).code_for_node(node).strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ...
    return value


def names_in(node: cst.CSTNode) -> set[str]:
    """Return the names that an expression reads; of `a.b` only `a`, and no keyword of a call."""
    return set(_names(node))


def _names(node: cst.CSTNode) -> Iterator[str]:
    if isinstance(node, cst.Name):
        yield node.value
    elif isinstance(node, cst.Attribute | cst.Arg):
        yield from _names(node.value)
    else:
        for child in node.children:
            yield from _names(child)


def target_names(target: cst.CSTNode) -> list[str]:
    """Return the plain names that an assignment's target binds, those of nested tuples too."""
    if isinstance(target, cst.Name):
        return [target.value]
    if isinstance(target, cst.Tuple | cst.List):
        return [name for element in target.elements for name in target_names(element.value)]
    if m.matches(target, m.StarredElement()):
        return target_names(target.value)  # type: ignore[attr-defined] # matched above
    return []
