"""The views that a transform makes of an image: how many of which size, and what makes each."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.nodes import attribute_chain, callee, find_all, names_in
from migrations.rules.m0002_third_view.sizes import crop_size

__all__ = ["View", "Views", "views_of"]


@dataclass(frozen=True)
class View:
    """One item of the list of views.

    Attributes:
        node: the item, or what makes several.
        transform: what is called, as written: `self.global_3`.
        looped: whether a loop makes as many as something says.
        conditional: whether it is made under a condition only.
        size: of its crop, as written; None where it was not found.
    """

    node: cst.CSTNode
    transform: str
    looped: bool
    conditional: bool
    size: str | None


@dataclass(frozen=True)
class Views:
    """The list that a function makes.

    Attributes:
        file, function: that makes it.
        views: in order.
    """

    file: SourceFile
    function: cst.FunctionDef
    views: tuple[View, ...]

    @property
    def locals_(self) -> list[View]:
        """Views in a loop that are of another size than the first."""
        first = self.views[0].size
        return [v for v in self.views if v.looped and v.size is not None and first is not None and v.size != first]

    @property
    def globals_(self) -> list[View]:
        """Single views of the size of the first."""
        return [v for v in self.views if not v.looped and v.size is not None and v.size == self.views[0].size]

    @property
    def unclear(self) -> list[View]:
        """Views of which it is not known whether they are global, or how many there are."""
        certain = [view for view in self.globals_ if not view.conditional]
        settled = {id(view) for view in (*self.locals_, *certain)}
        return [view for view in self.views if id(view) not in settled]


def views_of(file: SourceFile, function: cst.FunctionDef) -> Views | None:
    """Return the views that a function makes of its argument, if it makes local ones in a loop."""
    makers = (_List(file, function, name) for name in _lists(function))
    for maker in makers:
        views = maker.views()
        if views and not views[0].looped:
            found = Views(file, function, tuple(views))
            if found.locals_:
                return found
    return None


def _lists(function: cst.FunctionDef) -> list[str | None]:
    """Return the names of lists that a function fills, and None for a list that it returns at once."""
    names: list[str | None] = [
        target.target.value
        for assign in find_all(function.body, cst.Assign)
        for target in assign.targets
        if isinstance(target.target, cst.Name) and isinstance(assign.value, cst.List)
    ]
    if any(isinstance(statement.value, cst.List) for statement in find_all(function.body, cst.Return)):
        names.append(None)
    return names


class _List:
    """Collects what is put into one list of a function."""

    def __init__(self, file: SourceFile, function: cst.FunctionDef, name: str | None) -> None:
        self.file, self.function, self.name = file, function, name
        self.params = {param.name.value for param in find_all(function.params, cst.Param)} - {"self"}

    def views(self) -> list[View]:
        """Return the views in order; none where something else is put into the list."""
        found: list[View] = []
        for node in self._items():
            view = self._view(node)
            if view is None:
                return []
            found.append(view)
        return found

    def _items(self) -> list[cst.CSTNode]:
        """Return what is put into the list: elements, and comprehensions or products that make several."""
        found: list[cst.CSTNode] = []
        for statement in find_all(self.function.body, cst.BaseSmallStatement):  # type: ignore[type-abstract] # matched by isinstance
            for value in self._added(statement):
                found += _elements(value)
        return found

    def _added(self, statement: cst.BaseSmallStatement) -> list[cst.BaseExpression]:
        if isinstance(statement, cst.Return) and self.name is None:
            return [statement.value] if isinstance(statement.value, cst.List) else []
        if isinstance(statement, cst.Assign):
            mine = [t for t in statement.targets if isinstance(t.target, cst.Name) and t.target.value == self.name]
            return [statement.value] if mine and isinstance(statement.value, cst.List) else []
        if isinstance(statement, cst.AugAssign) and attribute_chain(statement.target) == self.name:
            return [statement.value]
        if isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call):
            call = statement.value
            if isinstance(call.func, cst.Attribute) and attribute_chain(call.func.value) == self.name and call.args:
                if call.func.attr.value == "append":
                    return [cst.List([cst.Element(call.args[0].value)])]
                if call.func.attr.value == "extend":
                    given = call.args[0].value
                    bound = self._bound(given) if isinstance(given, cst.Name) else given
                    return [bound] if isinstance(bound, cst.BaseExpression) else []
        return []

    def _view(self, node: cst.CSTNode) -> View | None:
        """Return what one item is; None where it is no view."""
        looped = isinstance(node, cst.ListComp | cst.GeneratorExp | cst.BinaryOperation) or self._in_loop(node)
        made: cst.CSTNode = node
        if isinstance(node, cst.ListComp | cst.GeneratorExp):
            made = node.elt
        elif isinstance(node, cst.BinaryOperation):
            made = next(iter(_elements(node.left)), node)
        if isinstance(made, cst.Name):
            made = self._bound(made)
        if isinstance(made, cst.Call) and attribute_chain(made.func) and self._of_the_image(made):
            size = crop_size(self.file, self.function, made.func)
            return View(node, attribute_chain(made.func), looped, self._is_conditional(node), size)
        name = node.left if isinstance(node, cst.BinaryOperation) else node
        name = next(iter(_elements(name)), name) if isinstance(name, cst.List) else name
        if isinstance(name, cst.Name) and isinstance(made, cst.Call):
            # A list of transforms, which another class calls.
            size = crop_size(self.file, self.function, name)
            return View(node, name.value, looped, self._is_conditional(node), size) if size else None
        return None

    def _bound(self, name: cst.Name) -> cst.CSTNode:
        found = resolve(self.file, name)
        value = found[0].value if len(found) == 1 and found[0].kind == "assign" else None
        return value if value is not None else name

    def _of_the_image(self, call: cst.Call) -> bool:
        """Whether a transform is called on the function's argument, perhaps through another transform."""
        if callee(call)[:1].isupper():
            return False  # a class: this makes a transform
        given = set().union(*(names_in(arg.value) for arg in call.args)) if call.args else set()
        for arg in call.args:
            if isinstance(arg.value, cst.Name) and isinstance(bound := self._bound(arg.value), cst.Call):
                given |= set().union(*(names_in(a.value) for a in bound.args)) if bound.args else set()
        return bool(given & self.params)

    def _in_loop(self, node: cst.CSTNode) -> bool:
        return any(isinstance(n, cst.For | cst.While) for n in self._around(node))

    def _is_conditional(self, node: cst.CSTNode) -> bool:
        return any(isinstance(n, cst.If | cst.IfExp | cst.Try) for n in self._around(node))

    def _around(self, node: cst.CSTNode) -> list[cst.CSTNode]:
        found = []
        for around in self.file.ancestors(node):
            if around is self.function:
                break
            found.append(around)
        return found


def _elements(value: cst.BaseExpression | cst.CSTNode) -> list[cst.CSTNode]:
    """Return the items of a list, those of starred lists too; an expression that makes several as it is."""
    if not isinstance(value, cst.List | cst.Tuple):
        return [value]
    found: list[cst.CSTNode] = []
    for element in value.elements:
        found += _elements(element.value) if isinstance(element, cst.StarredElement) else [element.value]
    return found
