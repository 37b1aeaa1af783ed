"""The places that set the weight decay of an optimizer's groups while it trains."""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.nodes import argument, attribute_chain, callee, find_all, literal, target_names

__all__ = ["KEY", "Loop", "Odd", "Write", "loops", "odd_sites", "steady"]

KEY = "weight_decay"


@dataclass(frozen=True)
class Write:
    """An assignment of a group's weight decay.

    Attributes:
        node: the small statement.
        value: what is assigned.
    """

    node: cst.BaseSmallStatement
    value: cst.BaseExpression


@dataclass(frozen=True)
class Loop:
    """A loop over the groups of an optimizer that sets weight decay.

    Attributes:
        file, node: the loop.
        optimizer: whose groups.
        index: name of the group's number; empty where there is none.
        start: number of the first group, `enumerate(…, start)`.
        group: text of the group, without white space.
        picked: literal slice of the groups; None for all.
        writes: of weight decay, in the order of the text.
    """

    file: SourceFile
    node: cst.For
    optimizer: cst.BaseExpression
    index: str
    start: int
    group: str
    picked: slice | None
    writes: tuple[Write, ...]

    def is_group(self, node: cst.CSTNode) -> bool:
        """Whether an expression is the loop's group."""
        return bare(self.file, node) == self.group


@dataclass(frozen=True)
class Odd:
    """A statement that sets weight decay in a form whose groups are not counted."""

    file: SourceFile
    node: cst.CSTNode
    why: str


def bare(file: SourceFile, node: cst.CSTNode) -> str:
    """Return a node's text without white space."""
    return "".join(file.code(node).split())


def steady(value: cst.BaseExpression) -> bool:
    """Whether a value is a literal: set once, not by a schedule."""
    return literal(value) is not ...


def loops(file: SourceFile, key: str = KEY) -> list[Loop]:
    """Return the loops of a file that set a key of the groups by a schedule."""
    found = []
    writes = re.compile(rf"[\"']{key}[\"']|\b{key}\s*=")
    for node in file.nodes(cst.For):
        loop = _loop(file, node, key) if writes.search(file.code(node)) else None
        if loop is not None and any(not steady(write.value) for write in loop.writes):
            found.append(loop)
    return found


def odd_sites(file: SourceFile, understood: list[Loop]) -> list[Odd]:
    """Return what else sets the weight decay of groups: single groups, and loops of other forms."""
    inside = {id(write.node) for loop in understood for write in loop.writes}
    found = []
    for node in (*file.nodes(cst.Assign), *file.nodes(cst.Expr)):
        written = _written(node)
        if written is None or id(node) in inside or steady(written[1]):
            continue
        target, value = written
        text = bare(file, target)
        if ".param_groups[" in text:
            found.append(Odd(file, node, f"sets the weight decay of `{file.code(target)}` alone"))
            continue
        around = next((n for n in file.ancestors(node) if isinstance(n, cst.For) and _is_over_groups(file, n)), None)
        bound = around is not None and bool(set(target_names(around.target)) & {text.split("[")[0], text})
        if around is not None and (bound or isinstance(target, cst.Name)) and not _own(file, around, value):
            found.append(Odd(file, node, f"sets weight decay on `{file.code(target)}` in a loop of another form"))
    return found


def _is_over_groups(file: SourceFile, loop: cst.For) -> bool:
    return "param_groups" in file.code(loop.iter)


def _own(file: SourceFile, loop: cst.For, value: cst.BaseExpression) -> bool:
    """Whether a value is picked per group, as wrappers do that put back what they had taken out."""
    names = set(target_names(loop.target))
    subscripts = find_all(value, cst.Subscript)
    return any(names & {name.value for name in find_all(part.slice[0], cst.Name)} for part in subscripts)


def _loop(file: SourceFile, node: cst.For, key: str) -> Loop | None:
    index, start, ranged = "", 0, False
    group_target: cst.BaseExpression = node.target
    targets: list[cst.BaseExpression] = (
        [element.value for element in node.target.elements] if isinstance(node.target, cst.Tuple) else []
    )
    over: cst.BaseExpression = node.iter
    if isinstance(over, cst.Call) and isinstance(over.func, cst.Name) and over.args:
        first, kind, args = over.args[0].value, over.func.value, over.args
        if kind == "enumerate" and len(targets) == 2:
            number, group_target = targets[0], targets[1]
            offset = literal(argument(over, "start", 1))
            index, start = attribute_chain(number), offset if isinstance(offset, int) else 0
            over = first
        elif kind == "zip":
            place = next((i for i, arg in enumerate(args) if "param_groups" in file.code(arg)), None)
            if place is None or place >= len(targets):
                return None
            over, group_target = args[place].value, targets[place]
        elif kind == "range" and len(args) == 1 and isinstance(first, cst.Call):
            if callee(first) != "len" or not first.args:
                return None
            over, index, ranged = first.args[0].value, attribute_chain(node.target), True
    if isinstance(over, cst.Call) and callee(over) in ("list", "tuple") and len(over.args) == 1:
        over = over.args[0].value
    picked: slice | None = None
    if isinstance(over, cst.Subscript):
        picked, over = _slice(over), over.value
        if picked is None:
            return None
    groups = _groups(file, over)
    if groups is None:
        return None
    group = f"{bare(file, over)}[{index}]" if ranged else attribute_chain(group_target)
    if ranged:
        group = _alias(file, node, group)
    writes = _writes(file, node, group, key) if group else ()
    return Loop(file, node, groups.value, index, start, group, picked, writes) if writes else None


def _groups(file: SourceFile, node: cst.BaseExpression) -> cst.Attribute | None:
    """Return `X.param_groups`, looking through a name that is bound to it."""
    if isinstance(node, cst.Attribute) and node.attr.value == "param_groups":
        return node
    if isinstance(node, cst.Name):
        found = resolve(file, node)
        value = found[0].value if len(found) == 1 and found[0].kind == "assign" else None
        return _groups(file, value) if isinstance(value, cst.Attribute) else None
    return None


def _alias(file: SourceFile, loop: cst.For, group: str) -> str:
    """Return the name that a loop over numbers binds to its group, or the group's own text."""
    for assign in find_all(loop.body, cst.Assign):
        if bare(file, assign.value) == group and isinstance(assign.targets[0].target, cst.Name):
            return assign.targets[0].target.value
    return group


def _slice(node: cst.Subscript) -> slice | None:
    part = node.slice[0].slice if len(node.slice) == 1 else None
    if not isinstance(part, cst.Slice):
        return None
    ends: list[int | None] = []
    for end in (part.lower, part.upper, part.step):
        value = None if end is None else literal(end)
        if value is not None and not isinstance(value, int):
            return None
        ends.append(value)
    return slice(*ends)


def _writes(file: SourceFile, loop: cst.For, group: str, key: str) -> tuple[Write, ...]:
    nodes: list[cst.BaseSmallStatement] = [*find_all(loop.body, cst.Assign), *find_all(loop.body, cst.Expr)]
    found = []
    for node in nodes:
        written = _written(node, key)
        if written is not None and bare(file, written[0]) == group and not _own(file, loop, written[1]):
            found.append(Write(node, written[1]))
    return tuple(sorted(found, key=lambda write: file.span(write.node)))


def _written(node: cst.CSTNode, key: str = KEY) -> tuple[cst.BaseExpression, cst.BaseExpression] | None:
    """Return (group, value) of `group["key"] = value` and of `group.update(key=value)`."""
    if isinstance(node, cst.Assign) and len(node.targets) == 1:
        target = node.targets[0].target
        if isinstance(target, cst.Subscript) and len(target.slice) == 1:
            index = target.slice[0].slice
            if isinstance(index, cst.Index) and literal(index.value) == key:
                return target.value, node.value
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call) and callee(node.value) == "update":
        func, call = node.value.func, node.value
        value = argument(call, key)
        if value is None and call.args and isinstance(call.args[0].value, cst.Dict):
            for element in call.args[0].value.elements:
                if isinstance(element, cst.DictElement) and literal(element.key) == key:
                    value = element.value
        if value is not None and isinstance(func, cst.Attribute):
            return func.value, value
    return None
