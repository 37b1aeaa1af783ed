"""What is known of a group while a loop is carried out for it: the values of expressions and conditions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import libcst as cst

from migrations.flow.groups import Group
from migrations.flow.nodes import argument, attribute_chain, callee, find_all, literal
from migrations.rules.m0006_weight_decay.sites import KEY, Loop, bare

__all__ = ["Reading"]

_COMPARE: dict[type[cst.BaseCompOp], Callable[[object, object], object]] = {
    cst.Equal: operator.eq,
    cst.NotEqual: operator.ne,
    cst.Is: operator.eq,
    cst.IsNot: operator.ne,
    cst.LessThan: operator.lt,  # type: ignore[dict-item] # a TypeError means "not known"
    cst.LessThanEqual: operator.le,  # type: ignore[dict-item] # as above
    cst.GreaterThan: operator.gt,  # type: ignore[dict-item] # as above
    cst.GreaterThanEqual: operator.ge,  # type: ignore[dict-item] # as above
    cst.In: lambda a, b: a in b,  # type: ignore[operator] # as above
    cst.NotIn: lambda a, b: a not in b,  # type: ignore[operator] # as above
}
_ARITHMETIC: dict[type[cst.BaseBinaryOp], Callable[[object, object], object]] = {
    cst.Modulo: operator.mod,
    cst.FloorDivide: operator.floordiv,
    cst.Add: operator.add,
    cst.Subtract: operator.sub,
    cst.Multiply: operator.mul,
    cst.BitAnd: operator.and_,
}


@dataclass
class Reading:
    """What is known while a loop is carried out for one group.

    Attributes:
        loop: that is carried out.
        position: of the group in the optimizer; None where it is not known.
        group: None where it is not known.
        n: number of groups; None where it is not known.
        initial: weight decay that the group starts with; Ellipsis where it is not known.
        flow: "", "continue" or "break": how the pass ended.
        names: what the pass has bound.
    """

    loop: Loop
    position: int | None = None
    group: Group | None = None
    n: int | None = None
    initial: object = ...
    flow: str = ""
    names: dict[str, cst.BaseExpression] = field(default_factory=dict)

    @classmethod
    def whole(cls, loop: Loop) -> Reading:
        """Return a reading of any group, with all names that the loop's passes bind."""
        names = {
            assign.targets[0].target.value: assign.value
            for assign in find_all(loop.node.body, cst.Assign)
            if isinstance(assign.targets[0].target, cst.Name)
        }
        return cls(loop, names=names)

    def value(self, node: cst.BaseExpression) -> object:
        """Return an expression's value; Ellipsis where it is not known."""
        known = literal(node)
        if known is not ...:
            return known
        if isinstance(node, cst.Name):
            if node.value == self.loop.index and node.value:
                return ... if self.position is None else self.position + self.loop.start
            return self.value(self.names[node.value]) if node.value in self.names else ...
        if isinstance(node, cst.Tuple | cst.List | cst.Set):
            parts = [self.value(element.value) for element in node.elements]
            return ... if ... in parts else tuple(parts)
        if isinstance(node, cst.Subscript | cst.Call):
            return self._lookup(node)
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            truth = self.truth(node.expression)
            return ... if truth is None else not truth
        if isinstance(node, cst.BinaryOperation) and type(node.operator) in _ARITHMETIC:
            return _try(_ARITHMETIC[type(node.operator)], self.value(node.left), self.value(node.right))
        if isinstance(node, cst.Comparison):
            return self._comparison(node)
        return ...

    def truth(self, node: cst.BaseExpression) -> bool | None:
        """Return whether a condition holds for this group, schedules being in force; None where it is not known."""
        if not self.mentions(node):
            # It decides about all groups alike: the question is what happens if it holds.
            value = self.value(node)
            return True if value is ... else bool(value)
        if isinstance(node, cst.BooleanOperation):
            left, right = self.truth(node.left), self.truth(node.right)
            if isinstance(node.operator, cst.And):
                return False if False in (left, right) else None if None in (left, right) else True
            guards = [not self.mentions(node.left), not self.mentions(node.right)]
            if True in guards and guards.count(True) < 2:
                other = right if guards[0] else left
                return True if other is True else None
            return True if True in (left, right) else None if None in (left, right) else False
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            inner = self.truth(node.expression)
            return None if inner is None else not inner
        value = self.value(node)
        return None if value is ... else bool(value)

    def mentions(self, node: cst.CSTNode) -> bool:
        """Whether an expression depends on which group it is."""
        loop = self.loop
        parts = [*find_all(node, cst.Name), *find_all(node, cst.Subscript)]
        for part in parts:
            if loop.is_group(part) or (isinstance(part, cst.Name) and part.value == loop.index):
                return True
            if isinstance(part, cst.Name) and part.value in self.names and self.mentions(self.names[part.value]):
                return True
        return ".param_groups" in bare(loop.file, node) and "len(" not in bare(loop.file, node)

    def own(self, node: cst.BaseExpression) -> str:
        """Return the key that a value takes from the group, other than weight decay itself; empty for none."""
        if isinstance(node, cst.Name) and node.value in self.names:
            return self.own(self.names[node.value])
        for part in (node, *find_all(node, cst.Subscript), *find_all(node, cst.Call), *find_all(node, cst.Name)):
            key = self.key(part) if isinstance(part, cst.Subscript | cst.Call) else ""
            if key and key != KEY:
                return key
            if isinstance(part, cst.Name) and part is not node and part.value in self.names and (k := self.own(part)):
                return k
        return ""

    def key(self, node: cst.CSTNode) -> str:
        """Return the key of `group["key"]` and `group.get("key")`; empty for other expressions."""
        if isinstance(node, cst.Subscript) and len(node.slice) == 1 and self.loop.is_group(node.value):
            index = node.slice[0].slice
            key = literal(index.value) if isinstance(index, cst.Index) else ...
            return key if isinstance(key, str) else ""
        if isinstance(node, cst.Call) and callee(node) == "get" and isinstance(node.func, cst.Attribute):
            key = literal(argument(node, "key", 0)) if self.loop.is_group(node.func.value) else ...
            return key if isinstance(key, str) else ""
        return ""

    def _lookup(self, node: cst.Subscript | cst.Call) -> object:
        key = self.key(node)
        if key and self.group is not None:
            if key in self.group.keys:
                value = self.group.keys[key]
                return ... if value is None and key == KEY else value
            if key == KEY:
                return self.initial
            return literal(argument(node, "default", 1)) if isinstance(node, cst.Call) and len(node.args) > 1 else ...
        if isinstance(node, cst.Call):
            if callee(node) == "len" and ".param_groups" in bare(self.loop.file, node):
                return ... if self.n is None else self.n
            if callee(node) == "range" and all(isinstance(self.value(a.value), int) for a in node.args):
                return range(*[self.value(a.value) for a in node.args])  # type: ignore[call-overload] # ints, above
            if callee(node) in ("set", "tuple", "list", "frozenset", "float", "bool", "int") and len(node.args) == 1:
                return self.value(node.args[0].value)
        return ...

    def _comparison(self, node: cst.Comparison) -> object:
        if len(node.comparisons) != 1:
            return ...
        part = node.comparisons[0]
        if isinstance(part.operator, cst.Is | cst.IsNot | cst.Equal | cst.NotEqual):
            same = self._is_group(node.left, part.comparator)
            if same is not None:
                return same == isinstance(part.operator, cst.Is | cst.Equal)
        if isinstance(part.operator, cst.In | cst.NotIn) and self.loop.is_group(part.comparator):
            key = literal(node.left)
            if self.group is None or not isinstance(key, str):
                return ...
            return (key in self.group.keys or key in (KEY, "lr")) == isinstance(part.operator, cst.In)
        return _try(_COMPARE[type(part.operator)], self.value(node.left), self.value(part.comparator))

    def _is_group(self, left: cst.BaseExpression, right: cst.BaseExpression) -> bool | None:
        """Answer `group is X.param_groups[0]`; None where the comparison is another."""
        if not self.loop.is_group(left) or not isinstance(right, cst.Subscript) or self.position is None:
            return None
        index = right.slice[0].slice
        number = literal(index.value) if isinstance(index, cst.Index) else ...
        if not isinstance(number, int) or not attribute_chain(right.value).endswith(".param_groups"):
            return None
        if number < 0 and self.n is None:
            return None
        return self.position == (number + (self.n or 0) if number < 0 else number)


def _try(function: Callable[[object, object], object], left: object, right: object) -> object:
    if left is ... or right is ...:
        return ...
    try:
        return function(left, right)
    except (TypeError, ZeroDivisionError):
        return ...
