"""Lists of groups that statements build up: assigned, appended to, extended, in loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import libcst as cst

from migrations.flow.groups import Frame, Layout, Unclear
from migrations.flow.nodes import attribute_chain, callee, find_all, literal, names_in, target_names

if TYPE_CHECKING:
    from migrations.flow.layouts import LayoutReader

__all__ = ["accumulated"]

_GROWS = ("append", "extend")
_KEEPS = ("copy", "index", "count", "__len__")


def accumulated(reader: LayoutReader, name: cst.Name, frame: Frame) -> Layout:
    """Return the groups that a list holds where its name is read.

    Raises:
        Unclear: the source does not tell.
    """
    body = frame.scope.body
    statements = body.body if isinstance(body, cst.BaseSuite) else body
    state = _Run(reader, name, frame).block(statements, None)
    if state is None:
        raise Unclear(frame.file, name, f"`{name.value}` is not built above the place where it is used")
    return state


class _Run:
    """Carries out, on layouts, the statements above the place where a name is read."""

    def __init__(self, reader: LayoutReader, name: cst.Name, frame: Frame) -> None:
        self.reader, self.frame, self.file = reader, frame, frame.file
        self.name = name.value
        self.around = {id(node) for node in frame.file.ancestors(name)}
        self.place = frame.file.span(name)[0]

    def block(self, statements: Sequence[cst.CSTNode], state: Layout | None) -> Layout | None:
        for statement in statements:
            if self.file.span(statement)[0] >= self.place:
                break
            if isinstance(statement, cst.SimpleStatementLine):
                if id(statement) in self.around:
                    break
                for small in statement.body:
                    state = self._small(small, state)
            elif self._touches(statement) or id(statement) in self.around:
                state = self._compound(statement, state)
        return state

    def _compound(self, statement: cst.CSTNode, state: Layout | None) -> Layout | None:
        inside = id(statement) in self.around
        if isinstance(statement, cst.FunctionDef | cst.ClassDef):
            return state
        if isinstance(statement, cst.With):
            return self.block(statement.body.body, state)
        if isinstance(statement, cst.If):
            return self._branches(statement, state, inside)
        if inside and isinstance(statement, cst.For | cst.While | cst.Try):
            return self.block(statement.body.body, state)
        if isinstance(statement, cst.For):
            return self._loop(statement, state)
        raise self._unclear(statement, f"how `{self.name}` is built cannot be followed")

    def _branches(self, statement: cst.If, state: Layout | None, inside: bool) -> Layout | None:
        bodies: list[Sequence[cst.CSTNode]] = [statement.body.body]
        suites: list[cst.CSTNode] = [statement.body]
        otherwise = statement.orelse
        while isinstance(otherwise, cst.If):
            bodies.append(otherwise.body.body)
            suites.append(otherwise.body)
            otherwise = otherwise.orelse
        if otherwise is not None:
            bodies.append(otherwise.body.body)
            suites.append(otherwise.body)
        if inside:
            for body, suite in zip(bodies, suites, strict=True):
                if id(suite) in self.around:
                    return self.block(body, state)
            return state
        ends: list[Layout | None] = [] if otherwise is not None else [state]
        ends += [self.block(body, state) for body in bodies if not _leaves(body)]
        known = [end for end in ends if end is not None]
        if not known:
            return state
        return self.reader.same(known, self.file, statement)

    def _loop(self, loop: cst.For, state: Layout | None) -> Layout | None:
        target = loop.target.value if isinstance(loop.target, cst.Name) else ""
        if target and self._appends(loop, target):
            return (state or ()) + self.reader.layout(loop.iter, self.frame)
        if names_in(loop.iter) == {self.name} and not self._sets_decay(loop):
            return state
        if any(self.name in target_names(a.target) for a in find_all(loop.body, cst.AssignTarget)):
            raise self._unclear(loop, f"a loop makes `{self.name}` anew each time")
        added = self.block(loop.body.body, ()) or ()
        return (state or ()) + self.reader.repeat(added, loop.iter, self.frame)

    def _appends(self, loop: cst.For, target: str) -> bool:
        """Whether a loop does nothing to the list but `name.append(target)`."""
        calls = [c for c in find_all(loop.body, cst.Call) if attribute_chain(c.func) == f"{self.name}.append"]
        one = len(calls) == 1 and len(calls[0].args) == 1 and attribute_chain(calls[0].args[0].value) == target
        line = self.file.statement(calls[0]) if calls else None
        return one and line is not None and self.file.parent(line) is loop.body and not self._sets_decay(loop)

    def _sets_decay(self, loop: cst.For) -> bool:
        return any(key in self.file.code(loop.body) for key in ("weight_decay", "wd_multiplier"))

    def _small(self, small: cst.BaseSmallStatement, state: Layout | None) -> Layout | None:
        if isinstance(small, cst.Assign | cst.AnnAssign) and small.value is not None:
            targets = [t.target for t in small.targets] if isinstance(small, cst.Assign) else [small.target]
            for target in targets:
                if isinstance(target, cst.Name) and target.value == self.name:
                    return self._layout(small.value)
                if self.name in target_names(target):
                    raise self._unclear(small, f"`{self.name}` is unpacked from another value")
                if isinstance(target, cst.Subscript) and self.name in names_in(target):
                    raise self._unclear(small, f"an entry of `{self.name}` is set")
        if isinstance(small, cst.AugAssign) and attribute_chain(small.target) == self.name:
            return (state or ()) + self._layout(small.value)
        if isinstance(small, cst.Expr) and isinstance(small.value, cst.Call):
            return self._method(small.value, state)
        return state

    def _method(self, call: cst.Call, state: Layout | None) -> Layout | None:
        if any(attribute_chain(arg.value) == self.name for arg in call.args):
            if self.reader.lookup.called(self.file, call) is not None:
                raise self._unclear(call, f"`{callee(call)}` is handed `{self.name}` and may change it")
            return state
        if not isinstance(call.func, cst.Attribute) or attribute_chain(call.func.value) != self.name:
            return state
        method = callee(call)
        if method in _GROWS and len(call.args) == 1:
            value = call.args[0].value
            grown = (self.reader.group(value, self.frame),) if method == "append" else self._layout(value)
            return (state or ()) + grown
        if method == "insert" and len(call.args) == 2 and literal(call.args[0].value) == 0:
            return (self.reader.group(call.args[1].value, self.frame), *(state or ()))
        if method in _KEEPS:
            return state
        raise self._unclear(call, f"`{self.name}.{method}` changes the groups")

    def _layout(self, value: cst.BaseExpression) -> Layout:
        return self.reader.layout(value, self.frame)

    def _touches(self, statement: cst.CSTNode) -> bool:
        return self.name in {name.value for name in find_all(statement, cst.Name)}

    def _unclear(self, node: cst.CSTNode, why: str) -> Unclear:
        return Unclear(self.file, node, why)


def _leaves(body: Sequence[cst.CSTNode]) -> bool:
    """Whether a block ends by leaving the function or the loop."""
    last = body[-1] if body else None
    if not isinstance(last, cst.SimpleStatementLine):
        return False
    return isinstance(last.body[-1], cst.Return | cst.Raise | cst.Continue | cst.Break)
