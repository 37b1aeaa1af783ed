"""Edits of single functions and constants of an imported module, undone afterwards; no file is touched."""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from parity.errors import ParityError

__all__ = ["Constant", "Edit", "EditError", "applied"]

_PACKAGES = ("port", "parity.adapters")
"""Where names that were imported from an edited module are replaced too."""


class EditError(ParityError):
    """An edit does not fit the code: the catalogue is older than the function that it edits."""


@dataclass(frozen=True)
class Edit:
    """A text of a function replaced by another.

    Attributes:
        target: `module:function` or `module:Class.method`.
        before: text that the function's source holds exactly once, indented as in a function at the margin.
        after: what stands there instead.
    """

    target: str
    before: str
    after: str

    @property
    def place(self) -> str:
        """A pattern of the places that `parity.trace` gives to lines of the function."""
        module, _, name = self.target.partition(":")
        return rf"{module.replace('.', '/')}\.py:\d+ in {name.rpartition('.')[2]}\b"


@dataclass(frozen=True)
class Constant:
    """A module's constant with another value.

    Attributes:
        target: `module:NAME`.
        value: while it is edited.
    """

    target: str
    value: Any

    @property
    def place(self) -> str:
        """The name, which no trace gives: the catalogue says what is to be named instead."""
        return self.target.partition(":")[2]


@contextmanager
def applied(*edits: Edit | Constant) -> Iterator[None]:
    """Make edits, and undo them in the end.

    Raises:
        EditError: a function does not hold the text exactly once, or there is no such constant.
    """
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(_constant(edit) if isinstance(edit, Constant) else _edited(edit))
        yield


@contextmanager
def _constant(edit: Constant) -> Iterator[None]:
    module_name, _, name = edit.target.partition(":")
    module = importlib.import_module(module_name)
    if not hasattr(module, name):
        raise EditError(f"{edit.target} does not exist; bring parity/teeth up to date")
    with _replaced(module, name, edit.value):
        yield


@contextmanager
def _edited(edit: Edit) -> Iterator[None]:
    module_name, _, path = edit.target.partition(":")
    module = importlib.import_module(module_name)
    *owners, name = path.split(".")
    owner: Any = module
    for part in owners:
        owner = getattr(owner, part, None)
    if not hasattr(owner, name):
        raise EditError(f"{edit.target} does not exist; bring parity/teeth up to date")
    with _replaced(owner, name, _recompiled(edit, module, owner, name)):
        yield


def _recompiled(edit: Edit, module: Any, owner: Any, name: str) -> Any:
    """Return the function with the edit, its lines numbered as before, so that traces still name them."""
    found = inspect.unwrap(inspect.getattr_static(owner, name))
    function: Any = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    lines, start = inspect.getsourcelines(function)
    text = textwrap.dedent("".join(lines))
    if text.count(edit.before) != 1:
        raise EditError(
            f"{edit.target} holds {edit.before!r} {text.count(edit.before)} times, expected once; "
            "bring parity/teeth up to date"
        )
    text = text.replace(edit.before, edit.after)
    if owner is not module:  # the compiler knows of no class here
        text = text.replace("super()", f"super({owner.__name__}, self)")
    tree = ast.parse(text)
    ast.increment_lineno(tree, start - 1)
    filename = inspect.getsourcefile(function) or module.__file__
    code = compile(tree, filename, "exec", flags=__future__.annotations.compiler_flag)
    namespace: dict[str, Any] = {}
    exec(code, vars(module), namespace)  # noqa: S102 - the project's own source, with an edit of its own
    return namespace[name]


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute; one of a module also where other modules have imported it."""
    old = inspect.getattr_static(owner, name)
    places = [(owner, name)]
    if inspect.ismodule(owner):
        for module in list(sys.modules.values()):
            if module is not owner and getattr(module, "__name__", "").startswith(_PACKAGES):
                places += [(module, key) for key, found in vars(module).items() if found is old and callable(old)]
    for place, key in places:
        setattr(place, key, value)
    try:
        yield
    finally:
        for place, key in places:
            setattr(place, key, old)
