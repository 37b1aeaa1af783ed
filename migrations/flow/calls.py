"""Between functions: what a call runs, what it returns, and what its callers give to a parameter."""

from __future__ import annotations

from functools import cached_property

import libcst as cst

from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.index import Definition, Index
from migrations.flow.nodes import callee, find_all

__all__ = ["Calls", "bound_arguments", "parameters", "returned"]


class Calls:
    """Resolves calls of functions, and of objects whose class is seen where they are made.

    `self.loss = PatchLoss(…)` makes `self.loss(x)` a call of `PatchLoss.forward`, wherever in the project the name
    `loss` receives instances of that class and of no other.
    """

    def __init__(self, project: Project, files: list[SourceFile]) -> None:
        self.index = Index(project, files)
        self.index.collect()

    def target(self, file: SourceFile, call: cst.Call) -> Definition | None:
        """Return the function or method that a call runs, or None where that is not certain."""
        name = callee(call)
        if name in ("", "forward", "__call__") or name not in self._known_names:
            return None
        meant = self.index.called(file, call)
        if meant is not None and isinstance(meant.node, cst.FunctionDef):
            return meant
        if meant is not None:
            return None
        owners = self._instances.get(name, set())
        return self._entry(next(iter(owners))) if len(owners) == 1 else None

    def callers(self, definition: Definition) -> list[tuple[SourceFile, cst.Call]]:
        """Return the calls that run a function."""
        return self._callers.get(id(definition.node), [])

    def definition(self, file: SourceFile, node: cst.FunctionDef) -> Definition:
        """Return the entry of a function that stands in one of the files."""
        return next(d for d in self.index.named(node.name.value) if d.file is file and d.node is node)

    @cached_property
    def _known_names(self) -> set[str]:
        """Names that may mean something here: of definitions, of what is imported under another name, of objects."""
        names = {node.name.value for f in self.index.files for node in f.nodes(cst.FunctionDef)}
        for file in self.index.files:
            names |= {a.asname.name.value for a in file.nodes(cst.ImportAlias) if _is_renamed(a)}  # type: ignore[union-attr] # a name, see below
        return names | set(self._instances)

    @cached_property
    def _instances(self) -> dict[str, set[str]]:
        """Names and attributes, and the classes whose instances they receive."""
        found: dict[str, set[str]] = {}
        classes = {node.name.value for f in self.index.files for node in f.nodes(cst.ClassDef)}
        for file in self.index.files:
            for assign in file.nodes(cst.Assign):
                made = _made(assign.value, classes)
                for target in assign.targets if made else []:
                    node = target.target
                    name = node.attr.value if isinstance(node, cst.Attribute) else getattr(node, "value", "")
                    if isinstance(name, str):
                        found.setdefault(name, set()).add(made)
        return found

    @cached_property
    def _callers(self) -> dict[int, list[tuple[SourceFile, cst.Call]]]:
        found: dict[int, list[tuple[SourceFile, cst.Call]]] = {}
        for file in self.index.files:
            for call in file.nodes(cst.Call):
                if (meant := self.target(file, call)) is not None:
                    found.setdefault(id(meant.node), []).append((file, call))
        return found

    def _entry(self, class_name: str) -> Definition | None:
        """Return `forward` (or `__call__`) of the one class of a name."""
        classes = [d for d in self.index.named(class_name) if isinstance(d.node, cst.ClassDef)]
        for method in ("forward", "__call__"):
            found = [d for d in self.index.named(method) if d.owner == class_name]
            if len(classes) == 1 and len(found) == 1 and found[0].file is classes[0].file:
                return found[0]
        return None


def _is_renamed(alias: cst.ImportAlias) -> bool:
    return alias.asname is not None and isinstance(alias.asname.name, cst.Name)


def _made(value: cst.BaseExpression, classes: set[str]) -> str:
    """Return the class of `Class(…)`, also of `Class(…).cuda()` and `.to(device)`; empty where it is none."""
    while isinstance(value, cst.Call):
        if callee(value) in classes:
            return callee(value)
        if not (isinstance(value.func, cst.Attribute) and callee(value) in ("cuda", "to", "float", "eval", "half")):
            return ""
        value = value.func.value
    return ""


def parameters(node: cst.FunctionDef) -> list[str]:
    """Return the names of a function's parameters, without `self` and `cls`."""
    params = [*node.params.posonly_params, *node.params.params, *node.params.kwonly_params]
    names = [param.name.value for param in params]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def bound_arguments(node: cst.FunctionDef, call: cst.Call) -> dict[str, cst.BaseExpression]:
    """Return the arguments of a call by the parameter that receives them; nothing behind a star."""
    names, found = parameters(node), {}
    position = 0
    for arg in call.args:
        if arg.star:
            break
        if arg.keyword is not None:
            found[arg.keyword.value] = arg.value
        elif position < len(names):
            found[names[position]] = arg.value
            position += 1
    return found


def returned(node: cst.FunctionDef) -> list[cst.BaseExpression]:
    """Return what a function returns, functions inside of it left out."""
    inner = {id(n) for f in find_all(node.body, cst.FunctionDef) for n in find_all(f, cst.Return)}
    return [r.value for r in find_all(node.body, cst.Return) if r.value is not None and id(r) not in inner]
