"""Definitions and calls by name, parsing only the files that hold the name: for questions about large projects."""

from __future__ import annotations

import re
from functools import cached_property

import libcst as cst

from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.index import Definition
from migrations.flow.nodes import attribute_chain, callee

__all__ = ["Lookup"]


class Lookup:
    """Answers what a call means and who calls a definition; what imports and names do not decide has no answer."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._definitions: dict[str, list[Definition]] = {}
        self._imports: dict[str, dict[str, str]] = {}

    @cached_property
    def _parts(self) -> set[str]:
        """The names of the project's folders and modules."""
        return {part for path in self.project.files for part in path.removesuffix(".py").split("/")}

    def definitions(self, name: str) -> list[Definition]:
        """Return every function, method and class of a name."""
        if name not in self._definitions:
            found: list[Definition] = []
            for file in self.project.matching(re.compile(rb"(?:def|class)\s+" + re.escape(name.encode()) + rb"\b")):
                nodes: list[cst.FunctionDef | cst.ClassDef] = [*file.nodes(cst.FunctionDef), *file.nodes(cst.ClassDef)]
                found += [Definition(file, node, _owner(file, node)) for node in nodes if node.name.value == name]
            self._definitions[name] = found
        return self._definitions[name]

    def imports(self, file: SourceFile) -> dict[str, str]:
        """Return `{name in the file: dotted origin}` of a file's imports; relative ones begin with a dot."""
        if file.path not in self._imports:
            found: dict[str, str] = {}
            for whole in file.nodes(cst.Import):
                for alias in whole.names:
                    origin = attribute_chain(alias.name)
                    local = alias.asname.name if alias.asname is not None else None
                    found[local.value if isinstance(local, cst.Name) else origin] = origin
            for part in file.nodes(cst.ImportFrom):
                module = attribute_chain(part.module) if part.module is not None else ""
                prefix = "." * len(part.relative) + module
                for alias in () if isinstance(part.names, cst.ImportStar) else part.names:
                    name = attribute_chain(alias.name)
                    local = alias.asname.name if alias.asname is not None else None
                    found[local.value if isinstance(local, cst.Name) else name] = f"{prefix}.{name}"
            self._imports[file.path] = found
        return self._imports[file.path]

    def origin(self, file: SourceFile, func: cst.BaseExpression) -> str:
        """Return the dotted origin of a name or attribute chain as the imports tell it, else the chain itself."""
        chain = attribute_chain(func)
        known = self.imports(file)
        parts = chain.split(".")
        for length in range(len(parts), 0, -1):
            head = ".".join(parts[:length])
            if head in known:
                return ".".join([known[head], *parts[length:]])
        return chain

    def called(self, file: SourceFile, call: cst.Call) -> Definition | None:
        """Return what a call means, or None where that is not certain."""
        name = callee(call)
        if not name:
            return None
        chain = attribute_chain(call.func)
        if chain in (f"self.{name}", f"cls.{name}"):
            owner = next((n.name.value for n in file.ancestors(call) if isinstance(n, cst.ClassDef)), "")
            own = [d for d in self.definitions(name) if d.file is file and d.owner == owner]
            return own[0] if len(own) == 1 else self._only(name)
        parts = chain.split(".")
        if any(".".join(parts[:length]) in self.imports(file) for length in range(1, len(parts) + 1)):
            return self._imported(self.origin(file, call.func))
        if isinstance(call.func, cst.Name):
            own = [d for d in self.definitions(name) if d.file is file and not d.owner]
            if own:
                return own[0] if len(own) == 1 else None
        return self._only(name)

    def calls_of(self, definition: Definition) -> list[tuple[SourceFile, cst.Call]]:
        """Return the calls that mean a definition, those under another name included."""
        found = []
        for file in self.project.matching(re.compile(rb"\b" + re.escape(definition.name.encode()) + rb"\b")):
            names = {
                definition.name,
                *(n for n, origin in self.imports(file).items() if origin.endswith(f".{definition.name}")),
            }
            for call in file.nodes(cst.Call):
                meant = self.called(file, call) if callee(call) in names else None
                if meant is not None and meant.node is definition.node:
                    found.append((file, call))
        return found

    def _only(self, name: str) -> Definition | None:
        found = self.definitions(name)
        return found[0] if len(found) == 1 else None

    def _imported(self, origin: str) -> Definition | None:
        module, _, name = origin.rpartition(".")
        candidates = self.definitions(name)
        tail = module.lstrip(".").replace(".", "/")
        near = [definition for definition in candidates if tail and _holds(definition.file.path, tail)]
        if len(near) == 1:
            return near[0]
        # A package that passes the name on: the only definition of the project, if the module is of the project.
        of_project = module.startswith(".") or tail.split("/")[0] in self._parts
        return candidates[0] if len(candidates) == 1 and of_project else None


def _holds(path: str, module: str) -> bool:
    """Whether a file is a module, either of them seen from a folder further in."""
    own = f"/{path.removesuffix('.py').removesuffix('/__init__')}"
    return own.endswith(f"/{module}") or f"/{module}".endswith(own)


def _owner(file: SourceFile, node: cst.CSTNode) -> str:
    around = next((n for n in file.ancestors(node) if isinstance(n, cst.FunctionDef | cst.ClassDef)), None)
    return around.name.value if isinstance(around, cst.ClassDef) else ""
