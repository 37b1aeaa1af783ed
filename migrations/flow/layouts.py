"""Reading the groups that an expression makes, through lists, loops, comprehensions and helper functions."""

from __future__ import annotations

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.accumulate import accumulated
from migrations.flow.bindings import bindings, resolve
from migrations.flow.frames import argument_frame, attribute_values, changes, either, make_group, returned
from migrations.flow.groups import Frame, Group, Layout, Many, Unclear, shape
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import attribute_chain, callee, find_all, literal

__all__ = ["LayoutReader"]

_DEEPEST = 12


class LayoutReader:
    """Reads layouts; raises `Unclear` with the place where the source does not tell."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup

    def layout(self, node: cst.BaseExpression, frame: Frame) -> Layout:
        """Return the groups of an expression that is a list (or another iterable) of groups.

        Raises:
            Unclear: the source does not tell.
        """
        if frame.depth > _DEEPEST:
            raise Unclear(frame.file, node, "the groups pass through too many functions")
        if isinstance(node, cst.List | cst.Tuple):
            return tuple(item for element in node.elements for item in self._element(element, frame))
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Add):
            return self.layout(node.left, frame) + self.layout(node.right, frame)
        if isinstance(node, cst.ListComp | cst.GeneratorExp):
            return self._comprehension(node.elt, node.for_in, frame)
        if isinstance(node, cst.IfExp):
            return self.same([self.layout(node.body, frame), self.layout(node.orelse, frame)], frame.file, node)
        if isinstance(node, cst.Call):
            return self._call(node, frame)
        if isinstance(node, cst.Name):
            return self._name(node, frame)
        if isinstance(node, cst.Attribute) and attribute_chain(node).startswith("self."):
            return self._attribute(node, frame)
        raise Unclear(frame.file, node, f"`{frame.file.code(node)}` is no list of groups that can be read")

    def same(self, found: list[Layout], file: SourceFile, node: cst.CSTNode) -> Layout:
        """Return one of layouts that are alike.

        Raises:
            Unclear: they are not.
        """
        if not found or any(shape(layout) != shape(found[0]) for layout in found):
            raise Unclear(file, node, "it depends on the configuration which groups there are")
        return found[0]

    def count(self, node: cst.BaseExpression, frame: Frame) -> int | None:
        """Return over how many items a loop over an expression runs; None where the source does not tell."""
        if isinstance(node, cst.List | cst.Tuple):
            stars = any(isinstance(element, cst.StarredElement) for element in node.elements)
            return None if stars else len(node.elements)
        if isinstance(node, cst.Dict):
            return len(node.elements)
        if isinstance(node, cst.Call):
            name, first = callee(node), node.args[0].value if node.args else None
            if isinstance(node.func, cst.Attribute) and name in ("values", "items", "keys") and first is None:
                return self.count(node.func.value, frame)
            if name in ("enumerate", "list", "tuple", "zip") and first is not None:
                return self.count(first, frame)
            limit = literal(first)
            return limit if name == "range" and len(node.args) == 1 and isinstance(limit, int) else None
        if isinstance(node, cst.Name):
            if node.value in frame.given:
                return self.count(*frame.given[node.value])
            found = resolve(frame.file, node)
            changed = [b for b in bindings(frame.scope) if b.name == node.value]
            calls = [c for c in find_all(frame.scope, cst.Call) if attribute_chain(c.func).startswith(node.value + ".")]
            changes = any(callee(c) in ("append", "extend", "insert", "pop", "remove", "update") for c in calls)
            single = len(found) == 1 == len(changed) and found[0].kind == "assign" and not changes
            return self.count(found[0].value, frame) if single and found[0].value is not None else None
        return None

    def repeat(self, items: Layout, over: cst.BaseExpression, frame: Frame) -> Layout:
        """Return groups as often as a loop over an expression runs."""
        n = self.count(over, frame)
        return items * n if n is not None else (Many(items, frame.file.code(over)),) if items else ()

    def group(self, node: cst.BaseExpression, frame: Frame) -> Group:
        """Return the group that an expression makes.

        Raises:
            Unclear: the source does not tell.
        """
        if isinstance(node, cst.Dict):
            keys: dict[str, object] = {}
            for element in node.elements:
                if isinstance(element, cst.StarredDictElement):
                    keys.update(self.group(element.value, frame).keys)
                elif isinstance(element, cst.DictElement) and isinstance(key := literal(element.key), str):
                    keys[key] = self._value(element.value, frame)
            return make_group(keys, frame.file, node)
        if isinstance(node, cst.Call) and callee(node) == "dict":
            keys = {arg.keyword.value: self._value(arg.value, frame) for arg in node.args if arg.keyword is not None}
            for arg in node.args:
                if arg.keyword is None:
                    keys = {**self.group(arg.value, frame).keys, **keys}
            return make_group(keys, frame.file, node)
        if isinstance(node, cst.Name):
            return self._named_group(node, frame)
        raise Unclear(frame.file, node, f"`{frame.file.code(node)}` is no group that can be read")

    def call_frame(self, call: cst.Call, frame: Frame) -> Frame | None:
        """Return the frame inside of what a call means; None where that is no function of the project."""
        meant = self.lookup.called(frame.file, call)
        if meant is None or not isinstance(meant.node, cst.FunctionDef):
            return None
        return argument_frame(meant.file, meant.node, call, frame)

    def _element(self, element: cst.BaseElement, frame: Frame) -> Layout:
        if isinstance(element, cst.StarredElement):
            return self.layout(element.value, frame)
        return (self.group(element.value, frame),)

    def _call(self, call: cst.Call, frame: Frame) -> Layout:
        name = callee(call)
        plain = [arg.value for arg in call.args if arg.keyword is None and not arg.star]
        if isinstance(call.func, cst.Name) and name in ("list", "tuple", "iter") and len(plain) == 1:
            return self.layout(plain[0], frame)
        if name == "chain" and len(plain) == len(call.args):
            return tuple(item for value in plain for item in self.layout(value, frame))
        if name in ("sum", "from_iterable") and plain:
            return self._joined(plain[0], frame)
        inside = self.call_frame(call, frame)
        if inside is None or not isinstance(inside.scope, cst.FunctionDef):
            raise Unclear(frame.file, call, f"what `{frame.file.code(call.func)}` returns is not in this project")
        found = [self.layout(value, inside) for value in returned(inside)]
        return self.same(found, frame.file, call)

    def _joined(self, node: cst.BaseExpression, frame: Frame) -> Layout:
        """Return the groups of an iterable of lists of groups, joined."""
        if isinstance(node, cst.List | cst.Tuple):
            return tuple(item for element in node.elements for item in self.layout(element.value, frame))
        if isinstance(node, cst.ListComp | cst.GeneratorExp) and not node.for_in.ifs and not node.for_in.inner_for_in:
            return self.repeat(self.layout(node.elt, frame), node.for_in.iter, frame)
        raise Unclear(frame.file, node, f"`{frame.file.code(node)}` is no list of lists that can be read")

    def _comprehension(self, elt: cst.BaseExpression, loop: cst.CompFor, frame: Frame) -> Layout:
        if loop.ifs:
            raise Unclear(frame.file, loop, "a condition in the comprehension decides which groups there are")
        if loop.inner_for_in is not None:
            return self.repeat(self._comprehension(elt, loop.inner_for_in, frame), loop.iter, frame)
        if isinstance(elt, cst.Name) and isinstance(loop.target, cst.Name) and elt.value == loop.target.value:
            return self.layout(loop.iter, frame)
        return self.repeat((self.group(elt, frame),), loop.iter, frame)

    def _name(self, node: cst.Name, frame: Frame) -> Layout:
        bound = [binding for binding in bindings(frame.scope) if binding.name == node.value]
        if any(binding.kind not in ("parameter",) for binding in bound):
            return accumulated(self, node, frame)
        if node.value in frame.given:
            return self.layout(*frame.given[node.value])
        if not bound and not isinstance(frame.scope, cst.Module):
            around = frame.file.function(frame.scope)
            outer = Frame(frame.file, around or frame.file.module, depth=frame.depth + 1)
            return self._name(node, outer)
        raise Unclear(frame.file, node, f"where `{node.value}` comes from is not known")

    def _attribute(self, node: cst.Attribute, frame: Frame) -> Layout:
        found = attribute_values(frame.file, node)
        if len(found) != 1:
            raise Unclear(frame.file, node, f"`{attribute_chain(node)}` is assigned {len(found)} times in its class")
        value, inside = found[0]
        return self.layout(value, Frame(frame.file, inside, depth=frame.depth + 1))

    def _named_group(self, node: cst.Name, frame: Frame) -> Group:
        found = resolve(frame.file, node)
        if len(found) != 1 or found[0].kind != "assign" or found[0].value is None:
            raise Unclear(frame.file, node, f"which group `{node.value}` is cannot be read")
        base = self.group(found[0].value, frame)
        keys, home = dict(base.keys), frame.file.parent(frame.file.statement(found[0].node) or node)
        for key, value, place in changes(frame, node):
            sure = frame.file.parent(frame.file.statement(place) or place) is home
            keys[key] = self._value(value, frame) if sure else ...
        return make_group(keys, base.file, base.node)

    def _value(self, node: cst.BaseExpression, frame: Frame) -> object:
        """Return a literal, looking through names that are bound once; Ellipsis where it is none."""
        if isinstance(node, cst.Name):
            found = resolve(frame.file, node)
            if node.value in frame.given and all(b.kind == "parameter" for b in found):
                value, outer = frame.given[node.value]
                return self._value(value, outer)
            once = len(found) == 1 and found[0].kind == "assign"
            return literal(found[0].value) if once else literal(node) if not found else either(found)
        if isinstance(node, cst.IfExp):
            return None if 0 in (literal(node.body), literal(node.orelse)) else ...
        return literal(node)
