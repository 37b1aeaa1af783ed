"""Where an optimizer that is used in one place was made in another, and over which groups."""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import bindings, resolve
from migrations.flow.frames import argument_frame, attribute_values, returned
from migrations.flow.groups import Frame, Group, Layout, Unclear
from migrations.flow.layouts import LayoutReader
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import argument, attribute_chain, callee, literal

__all__ = ["Construction", "Optimizers", "default_decay"]

_DEFAULTS = {"AdamW": 0.01, "Adam": 0.0, "SGD": 0.0, "RAdam": 0.0, "NAdam": 0.0, "RMSprop": 0.0, "Adagrad": 0.0}
_DEEPEST = 8


@dataclass(frozen=True)
class Construction:
    """A call that makes an optimizer.

    Attributes:
        frame: around it.
        call: the constructor's.
        name: of the class, as it is called there.
        default: weight decay of the groups that have none of their own; Ellipsis where it is no literal.
    """

    frame: Frame
    call: cst.Call
    name: str
    default: object


class Optimizers:
    """Follows optimizers back to where they are made."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.reader = LayoutReader(lookup)

    def layout(self, construction: Construction) -> Layout:
        """Return the groups that an optimizer is made over.

        Raises:
            Unclear: the source does not tell.
        """
        call, frame = construction.call, construction.frame
        groups = argument(call, "params", 0)
        if groups is None:
            raise Unclear(frame.file, call, "the optimizer is made without groups that can be read")
        if isinstance(groups, cst.Call) and callee(groups) == "parameters":
            return (Group({}, False, frame.file, groups),)
        return self.reader.layout(groups, frame)

    def made(self, node: cst.BaseExpression, frame: Frame) -> list[Construction]:
        """Return the calls that may have made the optimizer that an expression holds.

        Raises:
            Unclear: the source does not tell all of them.
        """
        if frame.depth > _DEEPEST:
            raise Unclear(frame.file, node, "the optimizer passes through too many functions")
        if isinstance(node, cst.Name):
            return self._name(node, frame)
        if isinstance(node, cst.Attribute):
            return self._attribute(node, frame)
        if isinstance(node, cst.IfExp):
            return self.made(node.body, frame) + self.made(node.orelse, frame)
        if isinstance(node, cst.BooleanOperation):
            return self.made(node.left, frame) + self.made(node.right, frame)
        if isinstance(node, cst.Call):
            return self._call(node, frame)
        raise Unclear(frame.file, node, f"where `{frame.file.code(node)}` is made is not known")

    def additions(self) -> list[tuple[SourceFile, cst.Call]]:
        """Return the calls of `add_param_group`, those of classes on themselves left out."""
        found = []
        for file in self.lookup.project.matching(re.compile(rb"\.add_param_group\s*\(")):
            for call in file.nodes(cst.Call):
                own = isinstance(call.func, cst.Attribute) and attribute_chain(call.func.value) in ("self", "")
                if callee(call) == "add_param_group" and not own:
                    found.append((file, call))
        return found

    def _name(self, node: cst.Name, frame: Frame) -> list[Construction]:
        found = resolve(frame.file, node)
        if not found and not isinstance(frame.scope, cst.Module):
            around = frame.file.function(frame.scope)
            outer = Frame(frame.file, around or frame.file.module, depth=frame.depth + 1)
            return self._outer(node, outer)
        made: list[Construction] = []
        for binding in found:
            if binding.kind == "parameter":
                made += self._parameter(node, frame)
            elif binding.kind == "assign" and binding.value is not None:
                if attribute_chain(binding.value) == "None":
                    continue
                made += self.made(binding.value, frame)
            elif binding.kind == "unpack" and isinstance(binding.value, cst.Tuple):
                made += self.made(self._part(node, binding.node, binding.value, frame), frame)
            elif binding.kind == "unpack" and isinstance(binding.value, cst.Call):
                made += self._unpacked(node, binding.node, binding.value, frame)
            else:
                raise Unclear(frame.file, binding.node, f"`{node.value}` is one of several optimizers")
        if not made:
            raise Unclear(frame.file, node, f"where `{node.value}` is made is not known")
        return made

    def _outer(self, node: cst.Name, frame: Frame) -> list[Construction]:
        """Return what a name of a function around may hold: what it is assigned anywhere there."""
        found = [b for b in bindings(frame.scope) if b.name == node.value]
        made: list[Construction] = []
        for binding in found:
            if binding.kind == "parameter":
                made += self._parameter(node, frame)
            elif binding.kind == "assign" and binding.value is not None:
                made += self.made(binding.value, frame)
        if not made:
            raise Unclear(frame.file, node, f"where `{node.value}` is made is not known")
        return made

    def _parameter(self, node: cst.Name, frame: Frame) -> list[Construction]:
        if node.value in frame.given:
            return self.made(*frame.given[node.value])
        function = frame.scope
        made: list[Construction] = []
        if isinstance(function, cst.FunctionDef):
            meant = [d for d in self.lookup.definitions(function.name.value) if d.node is function]
            for file, call in self.lookup.calls_of(meant[0]) if meant else []:
                caller = Frame(file, file.function(call) or file.module, depth=frame.depth + 1)
                inside = argument_frame(frame.file, function, call, caller)
                if node.value in inside.given:
                    made += self.made(*inside.given[node.value])
        if not made:
            raise Unclear(frame.file, node, f"no call that hands over `{node.value}` was found")
        return made

    def _unpacked(self, node: cst.Name, statement: cst.CSTNode, call: cst.Call, frame: Frame) -> list[Construction]:
        """Follow `model, optimizer = build(…)` into what `build` returns."""
        inside = self.reader.call_frame(call, frame)
        target = statement.targets[0].target if isinstance(statement, cst.Assign) else None
        if inside is None or not isinstance(target, cst.Tuple):
            raise Unclear(
                frame.file, statement, f"`{frame.file.code(call.func)}` returns it, and is not in this project"
            )
        names = [attribute_chain(element.value) for element in target.elements]
        made: list[Construction] = []
        for value in returned(inside):
            if not isinstance(value, cst.Tuple) or len(value.elements) != len(names):
                raise Unclear(inside.file, value, "what is returned here cannot be taken apart")
            made += self.made(value.elements[names.index(node.value)].value, inside)
        return made

    def _part(self, node: cst.Name, statement: cst.CSTNode, value: cst.Tuple, frame: Frame) -> cst.BaseExpression:
        """Return what a name gets of `a, b = x, y`."""
        target = statement.targets[0].target if isinstance(statement, cst.Assign) else None
        names = [attribute_chain(e.value) for e in target.elements] if isinstance(target, cst.Tuple) else []
        if node.value not in names or len(names) != len(value.elements):
            raise Unclear(frame.file, statement, f"which value `{node.value}` gets cannot be read")
        return value.elements[names.index(node.value)].value

    def _attribute(self, node: cst.Attribute, frame: Frame) -> list[Construction]:
        chain = attribute_chain(node)
        values = [(frame.file, *found) for found in attribute_values(frame.file, node)] if chain else []
        if not values:
            for file in self.lookup.project.matching(
                re.compile(rb"\." + re.escape(node.attr.value.encode()) + rb"\s*=(?!=)")
            ):
                for assign in file.nodes(cst.Assign):
                    targets = [target.target for target in assign.targets]
                    if any(isinstance(t, cst.Attribute) and t.attr.value == node.attr.value for t in targets):
                        values.append((file, assign.value, file.function(assign) or file.module))
        made: list[Construction] = []
        for file, value, scope in values:
            if attribute_chain(value) != "None":
                made += self.made(value, Frame(file, scope, depth=frame.depth + 1))
        if not made:
            raise Unclear(frame.file, node, f"where `{frame.file.code(node)}` is made is not known")
        return made

    def _call(self, call: cst.Call, frame: Frame) -> list[Construction]:
        name = callee(call)
        if name == "SimpleNamespace" and literal(argument(call, "param_groups")) == []:
            # A stand-in without groups: no loop does anything to it.
            return []
        inside = self.reader.call_frame(call, frame)
        if inside is not None:
            return [one for value in returned(inside) for one in self.made(value, inside)]
        if name[:1].isupper() and argument(call, "params", 0) is not None and not self._wraps(call, frame):
            return [Construction(frame, call, name, default_decay(self.lookup, frame.file, call))]
        raise Unclear(frame.file, call, f"what `{frame.file.code(call.func)}` makes is not known")

    def _wraps(self, call: cst.Call, frame: Frame) -> bool:
        """Whether a class is handed another optimizer, as LARC is."""
        first = argument(call, "params", 0)
        return first is not None and attribute_chain(first).split(".")[-1].startswith(("opt", "base_opt"))


def default_decay(lookup: Lookup, file: SourceFile, call: cst.Call) -> object:
    """Return the weight decay of the groups that have none of their own; Ellipsis where it is no literal.

    Args:
        lookup: of the project.
        file: that holds the call.
        call: the constructor's.
    """
    given = argument(call, "weight_decay")
    if given is not None:
        return literal(given)
    if any(arg.star for arg in call.args):
        return ...
    origin = lookup.origin(file, call.func)
    return _DEFAULTS.get(callee(call), ...) if ".optim." in f".{origin}" else ...
