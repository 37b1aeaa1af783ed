"""Follows values through assignments, calls and parameters; what cannot be followed is UNKNOWN."""

from __future__ import annotations

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import Binding, bindings, resolve
from migrations.flow.calls import Calls, bound_arguments, returned
from migrations.flow.index import Definition
from migrations.flow.nodes import literal
from migrations.rules.m0005_normalisation.algebra import NUMBER
from migrations.rules.m0005_normalisation.evidence import acts_as_mask, arity, is_dense, is_mask, position
from migrations.rules.m0005_normalisation.operations import called, imported
from migrations.rules.m0005_normalisation.operators import combined, gathered
from migrations.rules.m0005_normalisation.values import UNKNOWN, Kind, Value, join

__all__ = ["Evaluator", "Frame"]


class Frame(dict[tuple[int, str], Value]):
    """Values of parameters by function (its node's id) and name, while a call is followed into its function."""

    def __init__(self, values: dict[tuple[int, str], Value]) -> None:
        super().__init__(values)
        self.kept: dict[int, Value] = {}


_DEPTH = 80
"""Expressions within expressions; a guard against code that a machine wrote."""

_STEPS = 1500
"""Expressions looked at for one question; what takes more is given up, and unknown."""

_CALLS = 4
"""Functions that are followed into functions."""


class Evaluator:
    """Gives expressions their values."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self._kept: dict[int, Value] = {}
        self._keys: dict[str, Value] = {}
        self._modules: dict[str, set[str]] = {}
        self._busy: set[int] = set()
        self._inside = self._steps = self._cuts = 0

    def value(self, file: SourceFile, node: cst.BaseExpression, frame: Frame | None = None) -> Value:
        """Return what an expression holds; `frame` is given while a call is followed."""
        kept = self._kept if frame is None else frame.kept
        if id(node) in kept:
            return kept[id(node)]
        if not self._busy:
            self._steps = 0
        self._steps += 1
        if id(node) in self._busy or len(self._busy) > _DEPTH or self._steps > _STEPS:
            self._cuts += 1
            return UNKNOWN
        cuts = self._cuts
        self._busy.add(id(node))
        try:
            found = self._value(file, node, frame)
        finally:
            self._busy.discard(id(node))
        # What was cut short may be known to another question.
        if cuts == self._cuts or not self._busy:
            kept[id(node)] = found
        return found

    def _value(self, file: SourceFile, node: cst.BaseExpression, frame: Frame | None) -> Value:
        match node:
            case cst.Name():
                return self._name(file, node, frame)
            case cst.Attribute():
                return Value(Kind.MASK, file.code(node)) if is_mask(node.attr.value) else Value(text=file.code(node))
            case cst.Integer() | cst.Float():
                return NUMBER
            case cst.Subscript():
                return self._subscript(file, node, frame)
            case cst.Call():
                return self._call(file, node, frame)
            case cst.UnaryOperation():
                return self._unary(file, node, frame)
            case cst.BinaryOperation():
                left, right = self.value(file, node.left, frame), self.value(file, node.right, frame)
                return combined(node.operator, left, right)
            case cst.IfExp():
                return join([self.value(file, node.body, frame), self.value(file, node.orelse, frame)])
            case cst.Tuple() | cst.List():
                items = tuple(self.value(file, element.value, frame) for element in node.elements)
                return Value(Kind.TUPLE, items=items)
        return Value(text=file.code(node))

    def _unary(self, file: SourceFile, node: cst.UnaryOperation, frame: Frame | None) -> Value:
        inner = self.value(file, node.expression, frame)
        if isinstance(node.operator, cst.BitInvert):
            # The visible tokens of a row are another selection than its masked ones.
            return inner.but(mask=file.code(node)) if inner.kind is Kind.MASK else UNKNOWN
        return inner

    def _name(self, file: SourceFile, node: cst.Name, frame: Frame | None) -> Value:
        found = resolve(file, node) or self._closed_over(file, node)
        if not found:
            return Value(text=node.value)
        augmented = found[0] if found[0].kind == "augmented" else None
        values = (
            [self._augmented(file, augmented, frame)] if augmented else [self._bound(file, b, frame) for b in found]
        )
        value = join(values)
        if value.kind is Kind.MASK and not any(isinstance(b.value, cst.Name | cst.Attribute) for b in found):
            return value.but(mask=node.value)
        if value.kind is Kind.OTHER and not value.selected and acts_as_mask(file, node, found):
            return Value(Kind.MASK, node.value)
        return value.but(text=node.value)

    def _closed_over(self, file: SourceFile, node: cst.Name) -> list[Binding]:
        """Return what the function around the reader's own function binds once under a name."""
        own = file.function(node)
        around = file.function(own) if own is not None else None
        found = [b for b in bindings(around) if b.name == node.value] if around is not None else []
        return found if len(found) == 1 else []

    def _augmented(self, file: SourceFile, binding: Binding, frame: Frame | None) -> Value:
        node = binding.node
        if not (isinstance(node, cst.AugAssign) and isinstance(node.target, cst.Name)):
            return UNKNOWN
        left, right = self._name(file, node.target, frame), self.value(file, node.value, frame)
        return combined(node.operator, left, right)

    def _bound(self, file: SourceFile, binding: Binding, frame: Frame | None) -> Value:
        if binding.kind == "parameter":
            return self._parameter(file, binding, frame)
        if binding.value is None or binding.kind not in ("assign", "unpack"):
            return UNKNOWN
        if binding.kind == "assign":
            return self.value(file, binding.value, frame)
        place = position(binding)
        if isinstance(shaped := binding.value, cst.Attribute) and shaped.attr.value == "shape":
            return self.first(file, shaped.value, frame, unpacked=arity(binding)) if place == 0 else UNKNOWN
        whole = self.value(file, binding.value, frame)
        return whole.items[place] if whole.kind is Kind.TUPLE and 0 <= place < len(whole.items) else UNKNOWN

    def first(self, file: SourceFile, node: cst.BaseExpression, frame: Frame | None, unpacked: int = 0) -> Value:
        """Return the value of `node.shape[0]`."""
        value = self.value(file, node, frame)
        if value.selected or value.kind is Kind.TOKEN_INDEX:
            return Value(Kind.N_TOKENS, value.mask)
        if value.slices:
            return Value(text=next(iter(value.slices)))
        if value.kind in (Kind.MASK, Kind.ROW_COUNT, Kind.ROW_SUM, Kind.ROW_MEAN) or unpacked >= 3:
            return Value(Kind.N_ROWS, value.mask)
        return Value(Kind.N_ROWS) if is_dense(file, node) else Value(text=f"{file.code(node)}.shape[0]")

    def _parameter(self, file: SourceFile, binding: Binding, frame: Frame | None) -> Value:
        function = file.function(binding.node)
        if function is None:
            return UNKNOWN
        if frame is not None and (id(function), binding.name) in frame:
            return frame[id(function), binding.name]
        values = [self._argument(*caller, function, binding.name) for caller in self._callers(file, function)]
        return join(values)

    def _callers(self, file: SourceFile, function: cst.FunctionDef) -> list[tuple[SourceFile, cst.Call]]:
        return self.calls.callers(self.calls.definition(file, function))

    def _argument(self, file: SourceFile, call: cst.Call, function: cst.FunctionDef, name: str) -> Value:
        """Return what one caller gives to a parameter, with masks under their names inside of the function."""
        arguments = bound_arguments(function, call)
        if name not in arguments or literal(arguments[name]) is None:
            return UNKNOWN
        value = self.value(file, arguments[name])
        if value.kind is Kind.MASK:
            return value.but(mask=name)
        same = [other for other, node in arguments.items() if value.mask and file.code(node) == value.mask]
        return value.but(mask=same[0] if same else "", slices=frozenset())

    def _subscript(self, file: SourceFile, node: cst.Subscript, frame: Frame | None) -> Value:
        base = node.value
        index = node.slice[0].slice
        if len(node.slice) > 1:
            whole = self.value(file, base, frame)
            return whole.but(kind=Kind.ROW_INDEX) if whole.kind is Kind.TOKEN_INDEX else whole
        if isinstance(index, cst.Slice):
            bound = file.code(index.upper) if index.upper is not None and index.lower is None else ""
            whole = self.value(file, base, frame)
            return whole.but(slices=whole.slices | {bound}) if bound else whole
        if not isinstance(index, cst.Index):
            return UNKNOWN
        place = literal(index.value)
        if isinstance(base, cst.Attribute) and base.attr.value == "shape":
            return self.first(file, base.value, frame) if place == 0 else UNKNOWN
        if isinstance(place, str):
            return self._key(place)
        whole = self.value(file, base, frame)
        if isinstance(place, int) or (whole.kind is Kind.TUPLE):
            fits = whole.kind is Kind.TUPLE and isinstance(place, int) and -len(whole.items) <= place < len(whole.items)
            if fits and isinstance(place, int):
                return whole.items[place]
            return whole.but(mask=file.code(node)) if whole.kind is Kind.MASK else whole.but(kind=Kind.OTHER)
        return gathered(whole, self.value(file, index.value, frame), file.code(node))

    def _key(self, key: str) -> Value:
        """Return what dictionaries of the project hold under a key."""
        if key not in self._keys:
            self._keys[key] = UNKNOWN
            self._keys[key] = self._in_dictionaries(key)
        return self._keys[key]

    def _in_dictionaries(self, key: str) -> Value:
        found = []
        for file in self.calls.index.files:
            if key.encode() in file.data:
                elements = [e for d in file.nodes(cst.Dict) for e in d.elements if isinstance(e, cst.DictElement)]
                found += [self.value(file, e.value) for e in elements if literal(e.key) == key]
        value = join(found)
        named = Value(Kind.MASK, key) if value.kind is Kind.OTHER and is_mask(key) else value
        return named.but(mask="", slices=frozenset(), text=key) if named.kind is not Kind.MASK else named

    def _call(self, file: SourceFile, node: cst.Call, frame: Frame | None) -> Value:
        meant = self.calls.target(file, node)
        if meant is not None and (found := self._inlined(meant, file, node, frame)).kind is not Kind.OTHER:
            return found
        if file.path not in self._modules:
            self._modules[file.path] = imported(file)
        return called(self, file, node, frame, self._modules[file.path])

    def _inlined(self, meant: Definition, file: SourceFile, call: cst.Call, frame: Frame | None) -> Value:
        """Return what a function gives back for the values of a call's arguments."""
        if not isinstance(meant.node, cst.FunctionDef) or self._inside >= _CALLS:
            return UNKNOWN
        arguments = bound_arguments(meant.node, call)
        inner = Frame({(id(meant.node), name): self.value(file, arg, frame) for name, arg in arguments.items()})
        self._inside += 1
        values = [self.value(meant.file, result, inner) for result in returned(meant.node)]
        self._inside -= 1
        tuples = [value.items for value in values if value.kind is Kind.TUPLE]
        if tuples and len({len(items) for items in tuples}) == 1:
            return Value(Kind.TUPLE, items=tuple(join(list(column)) for column in zip(*tuples, strict=True)))
        return join(values)
