"""Masks whose tokens are drawn one by one, or permuted, and the losses and models that take them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.calls import Calls
from migrations.flow.dimensions import dimensions
from migrations.flow.nodes import argument, attribute_chain, callee, find_all
from migrations.flow.origins import origins

__all__ = ["Draw", "draws", "shape_of"]

_RANDOM = frozenset(("rand", "rand_like", "random", "uniform", "random_sample"))
_TWO_NETWORKS = re.compile(r"(?i)teacher|ibot|\bema_|_ema\b|momentum_(encoder|model|net)|self_?distill")
_MASK = re.compile(r"(?i)mask|bool_masked_pos")
_OTHER = re.compile(
    r"(?i)attn|attention|pad|causal|key|segm|pixel|mask_?(token|ratio|weight|gen|prob|feat|ind)|n_masked"
)


@dataclass(frozen=True)
class Draw:
    """A random mask that a student's model or loss takes.

    Attributes:
        node: the expression that draws it.
        kind: `bernoulli` or `permutation`.
        user: where it is taken, as `path:line`.
    """

    file: SourceFile
    node: cst.BaseExpression
    kind: str
    user: str


def draws(calls: Calls) -> list[Draw]:
    """Return the draws whose masks are taken where a teacher and a student are trained, each once."""
    found: dict[int, Draw] = {}
    for file, mask in _uses(calls):
        for there, node in origins(calls, file, mask):
            kind = _kind(calls, there, node)
            if kind and isinstance(node, cst.BaseExpression) and id(node) not in found:
                user = str(file.site(mask))
                found[id(node)] = Draw(there, _whole(there, node), kind, user)
    inside = [(d.file.path, *d.file.span(d.node)) for d in found.values()]
    # `rand(…)` inside of a permutation, or a draw inside of another, is the same mask.
    return [
        d
        for d in found.values()
        if not any(
            p == d.file.path
            and a <= d.file.span(d.node)[0]
            and d.file.span(d.node)[1] <= b
            and (a, b) != d.file.span(d.node)
            for p, a, b in inside
        )
    ]


def _uses(calls: Calls) -> Iterator[tuple[SourceFile, cst.BaseExpression]]:
    """Yield what is given as a mask, or selects tokens, in functions that know two networks."""
    for file in calls.index.files:
        if not _TWO_NETWORKS.search(file.text):
            continue
        known: dict[int, bool] = {}
        for call in file.nodes(cst.Call):
            for arg in call.args:
                keyword = arg.keyword.value if arg.keyword is not None else _last_name(arg.value)
                named = _MASK.search(keyword) and not _OTHER.search(keyword) and _knows_two(file, call, known)
                if named or (arg.keyword is None and _is_student(file, call)):
                    yield file, arg.value
        for node in file.nodes(cst.Subscript):
            index = node.slice[0].slice if len(node.slice) == 1 else None
            plain = isinstance(index, cst.Index) and isinstance(index.value, cst.Name | cst.Attribute)
            if isinstance(index, cst.Index) and plain and _knows_two(file, node, known):
                yield file, index.value


def _knows_two(file: SourceFile, node: cst.CSTNode, known: dict[int, bool]) -> bool:
    """Whether the function around a node speaks of a teacher or of a moving average beside a student."""
    function = file.function(node)
    if function is None:
        return False
    if id(function) not in known:
        known[id(function)] = _TWO_NETWORKS.search(file.code(function)) is not None
    return known[id(function)]


def _is_student(file: SourceFile, call: cst.Call) -> bool:
    return "student" in attribute_chain(call.func).lower() and len(call.args) > 1 and file.function(call) is not None


def _last_name(node: cst.BaseExpression) -> str:
    return node.attr.value if isinstance(node, cst.Attribute) else node.value if isinstance(node, cst.Name) else ""


def _kind(calls: Calls, file: SourceFile, node: cst.CSTNode) -> str:
    """Return of which kind of draw an expression is; empty where it is none."""
    if isinstance(node, cst.Call) and callee(node) in ("bernoulli", "bernoulli_"):
        return "bernoulli" if (dimensions(calls, file, node) or 0) >= 2 or _sides(file, node) else ""
    if isinstance(node, cst.Comparison):
        if _is_uniform(node.left) and (dimensions(calls, file, node) or len(_sides(file, node))) >= 2:
            return "bernoulli"
        return "permutation" if _shuffles(calls, file, node.left) else ""
    if isinstance(node, cst.Call) and callee(node) == "scatter_":
        places = argument(node, "index", 1)
        return "permutation" if places is not None and _shuffles(calls, file, places) else ""
    if isinstance(node, cst.Call) and callee(node) in ("shuffle", "permutation") and node.args:
        # Shuffling a list of masks over the rows is official's own last step.
        return "permutation" if "ones" in _made_of(file, node.args[0].value) else ""
    return ""


def _is_uniform(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Call) and (callee(node) in _RANDOM or callee(node) == "uniform_")


def _shuffles(calls: Calls, file: SourceFile, node: cst.BaseExpression) -> bool:
    """Whether places come from sorting noise or from a random permutation."""
    steps = [one for _, one in origins(calls, file, node) if isinstance(one, cst.Call)][:12]
    names = {callee(one) for one in steps}
    return bool(names & {"randperm", "permutation", "multinomial"}) or (
        bool(names & {"argsort", "topk", "sort"}) and bool(names & (_RANDOM | {"randn"}))
    )


def _made_of(file: SourceFile, node: cst.BaseExpression) -> set[str]:
    values = [b.value for b in resolve(file, node)] if isinstance(node, cst.Name) else [node]
    return {callee(call) for value in values if value is not None for call in find_all(value, cst.Call)}


def _whole(file: SourceFile, node: cst.BaseExpression) -> cst.BaseExpression:
    """Return a draw with the `.bool()` behind it."""
    attribute = file.parent(node)
    call = file.parent(attribute) if isinstance(attribute, cst.Attribute) else None
    return (
        call if isinstance(call, cst.Call) and callee(call) in ("bool", "astype") and call.func is attribute else node
    )


def shape_of(file: SourceFile, node: cst.CSTNode) -> tuple[list[cst.BaseExpression], cst.Call] | None:
    """Return the sides of the array that a draw fills, and the call that makes it; names are followed once."""
    for call in find_all(node, cst.Call):
        if callee(call) in ("ones", "zeros", "rand", "full", "empty", "random_sample", "random") and call.args:
            first = call.args[0].value
            listed = isinstance(first, cst.Tuple | cst.List)
            sides = [e.value for e in first.elements] if isinstance(first, cst.Tuple | cst.List) else []
            plain = [arg.value for arg in call.args if arg.keyword is None and not arg.star]
            sides = sides if listed else plain
            if len(sides) in (2, 3):
                return sides, call
    for name in find_all(node, cst.Name):
        found = resolve(file, name)
        value = found[0].value if len(found) == 1 and found[0].kind == "assign" else None
        if value is not None and not isinstance(value, cst.Name) and (shape := shape_of(file, value)):
            return shape
    return None


def _sides(file: SourceFile, node: cst.CSTNode) -> list[cst.BaseExpression]:
    shape = shape_of(file, node)
    return shape[0] if shape else []
