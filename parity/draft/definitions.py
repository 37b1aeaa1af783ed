"""What names mean in a fork: classes with their inherited methods, functions, and what a file only imports.

Libraries that a fork inherits from are read in the same way, from their source on `sys.path`; nothing is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from parity.draft.source import Module, parse_file

__all__ = ["Definition", "Parameter", "Project", "statements"]

_NEVER_READ = frozenset(
    (
        "torch", "torchvision", "torchaudio", "torchmetrics", "numpy", "scipy", "sklearn", "skimage", "pandas", "PIL",
        "cv2", "matplotlib", "omegaconf", "hydra", "yaml", "rich", "tqdm", "wandb", "tensorboard", "tensorboardX",
        "fvcore", "iopath", "submitit", "triton", "xformers", "transformers", "datasets", "einops", "pytest",
    )
)  # fmt: skip
"""Libraries that define no training stack, and take long to parse."""

_DEEPEST = 8
_MOST_READ = 200

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Parameter:
    """One parameter of a call: its name, whether it must be given, and its annotation and default as written."""

    name: str
    required: bool
    positional_only: bool = False
    annotation: str = ""
    default: str = ""


@dataclass(frozen=True)
class Definition:
    """A class or function, and the name under which the fork reaches it.

    Attributes:
        name: in `module`.
        module: a module of the fork; the draft imports from here.
        line: of the definition or, where it is imported from a library, of the import.
        node: the definition.
        home: the module that the definition stands in.
        bases: resolved base classes, nearest first; those outside what could be read are left out.
    """

    name: str
    module: Module
    line: int
    node: ast.ClassDef | Function = field(repr=False, compare=False)
    home: Module
    bases: tuple[Definition, ...] = field(default=(), repr=False, compare=False)

    @property
    def is_class(self) -> bool:
        """Whether it is a class."""
        return isinstance(self.node, ast.ClassDef)

    @property
    def where(self) -> str:
        """`file:line` in the fork, with the library that it comes from."""
        place = f"{self.module.shown}:{self.line}"
        return place if self.home.own else f"{place} (from {self.home.name})"

    @cached_property
    def _methods(self) -> dict[str, Function]:
        if not isinstance(self.node, ast.ClassDef):
            return {}
        found: dict[str, Function] = {}
        for base in reversed(self.bases):
            found |= base.methods()
        return found | {node.name: node for node in self.node.body if isinstance(node, Function)}

    def methods(self) -> dict[str, Function]:
        """Return the methods by name, inherited ones included; of a function, none."""
        return self._methods

    def parameters(self, method: str = "") -> tuple[Parameter, ...] | None:
        """Return the parameters of a method, of a class's constructor, or of a function, without `self`.

        None where there is no such method. A class without a constructor that could be read has no parameters.
        """
        if not isinstance(self.node, ast.ClassDef):
            return None if method else _parameters(self.node, bound=False)
        found = self.methods().get(method or "__init__")
        if found is None:
            return None if method else ()
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in found.decorator_list)
        return _parameters(found, bound=not static)


def _parameters(node: Function, *, bound: bool) -> tuple[Parameter, ...]:
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    pairs = list(zip(positional, defaults, strict=True))[1 if bound else 0 :]
    pairs += list(zip(given.kwonlyargs, given.kw_defaults, strict=True))
    return tuple(
        Parameter(
            argument.arg,
            default is None,
            argument in given.posonlyargs,
            ast.unparse(argument.annotation) if argument.annotation else "",
            ast.unparse(default) if default else "",
        )
        for argument, default in pairs
    )


def statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, those under `if`, `try` and `with` included."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from statements(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from statements(handler.body)


class Project:
    """The modules of a fork, and a resolver of the names in them.

    Args:
        modules: the fork's own.
        search: folders in which libraries are looked up; `sys.path` by default.
    """

    def __init__(self, modules: Sequence[Module], search: Sequence[str] | None = None) -> None:
        self.modules = tuple(modules)
        self._by_name = {module.name: module for module in reversed(self.modules)}
        self._search = [Path(entry or ".") for entry in (sys.path if search is None else search)]
        self._libraries: dict[str, Module | None] = {}
        self._definitions: tuple[Definition, ...] | None = None

    def definitions(self) -> Sequence[Definition]:
        """Return every class and function that a draft may import, in the order of the files."""
        if self._definitions is None:
            self._definitions = tuple(self._found())
        return self._definitions

    def _found(self) -> Iterator[Definition]:
        """Yield every class and function of the fork, and those that it imports from a library that can be read.

        A file that no import statement can name (`train-dino.py`) is left out.
        """
        for module in filter(lambda module: module.importable, self.modules):
            for node in statements(module.tree.body):
                if isinstance(node, ast.ClassDef | Function):
                    yield self._defined(node.name, module, node, module, 0)
                elif isinstance(node, ast.ImportFrom):
                    yield from self._imported(module, node)

    def _imported(self, module: Module, node: ast.ImportFrom) -> Iterator[Definition]:
        target = self._target(module, node)
        if target is None or target.own:  # what the fork passes on is found where it comes in
            return
        for alias in node.names:
            found = self.resolve(module, alias.asname or alias.name)
            if found is not None and not found.home.own:
                yield Definition(alias.asname or alias.name, module, node.lineno, found.node, found.home, found.bases)

    def resolve(self, module: Module, name: str, depth: int = 0) -> Definition | None:
        """Return what a name of a module stands for, or None where that cannot be read."""
        if depth > _DEEPEST:
            return None
        for node in statements(module.tree.body):
            if isinstance(node, ast.ClassDef | Function) and node.name == name:
                return self._defined(name, module, node, module, depth)
        for node in statements(module.tree.body):
            if isinstance(node, ast.ImportFrom):
                target = self._target(module, node)
                for alias in node.names if target else ():
                    if alias.name == "*" or (alias.asname or alias.name) == name:
                        assert target is not None
                        wanted = name if alias.name == "*" else alias.name
                        found = self.resolve(target, wanted, depth + 1)
                        if found is not None:
                            return found
        return None

    def names(self, module: Module) -> set[str]:
        """Return the names that a module binds at its top level."""
        found: set[str] = set()
        for node in statements(module.tree.body):
            if isinstance(node, ast.ClassDef | Function):
                found.add(node.name)
            elif isinstance(node, ast.Import):
                found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        return found

    def _defined(
        self, name: str, module: Module, node: ast.ClassDef | Function, home: Module, depth: int
    ) -> Definition:
        bases = []
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            found = self.resolve(home, base.id, depth + 1) if isinstance(base, ast.Name) and base.id != name else None
            if found is not None and found.is_class:
                bases.append(found)
        return Definition(name, module, node.lineno, node, home, tuple(bases))

    def _target(self, module: Module, node: ast.ImportFrom) -> Module | None:
        """Return the module that a `from … import` reads."""
        dotted = node.module or ""
        if node.level:
            parts = module.package.split(".") if module.package else []
            kept = parts[: len(parts) - node.level + 1]
            dotted = ".".join([*kept, *([dotted] if dotted else [])])
        if dotted in self._by_name:
            return self._by_name[dotted]
        return self._library(dotted, module)

    def _library(self, dotted: str, asking: Module) -> Module | None:
        if not dotted or dotted.split(".")[0] in _NEVER_READ or dotted.split(".")[0] in sys.stdlib_module_names:
            return None
        if dotted not in self._libraries and len(self._libraries) < _MOST_READ:
            self._libraries[dotted] = None  # also where a library imports itself in a circle
            self._libraries[dotted] = self._read(dotted, [asking.root, *self._search])
        return self._libraries.get(dotted)

    def _read(self, dotted: str, folders: Sequence[Path]) -> Module | None:
        stem = Path(*dotted.split("."))
        for folder in folders:
            for file in (folder / stem / "__init__.py", (folder / stem).with_suffix(".py")):
                tree = _parsed(file)
                if tree is not None:
                    return Module(file, str(file), folder, dotted, tree, own=False)
        return None


def _parsed(file: Path) -> ast.Module | None:
    """Return the syntax tree of a library's file, or None where there is none or it cannot be read."""
    try:
        return parse_file(file) if file.is_file() else None
    except (OSError, ValueError):
        return None
