"""Definitions of a whole project, and which of them a call means."""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.nodes import attribute_chain, callee

__all__ = ["Definition", "Index"]


@dataclass(frozen=True)
class Definition:
    """A function, method or class.

    Attributes:
        file: that holds it.
        node: the definition.
        owner: the class around a method; empty for others.
    """

    file: SourceFile
    node: cst.FunctionDef | cst.ClassDef
    owner: str = ""

    @property
    def name(self) -> str:
        """Its own name, without the class."""
        return self.node.name.value


class Index:
    """Definitions by name, of the files that it is given.

    A file is parsed only when it defines or calls a name that is asked for, so that an index of a large project is
    cheap.

    A name that is defined in one place is taken for that place wherever it is called; where there are several, the
    caller's own file and its imports decide, and what they do not decide has no answer.
    """

    def __init__(self, project: Project, files: list[SourceFile] | None = None) -> None:
        self.project = project
        self._all = list(project.files.values() if files is None else files)
        self._by_name: dict[str, list[Definition]] = {}
        self._by_file: dict[str, list[Definition]] = {}
        self._renamed: dict[str, dict[str, str]] = {}
        self._complete = False

    @property
    def files(self) -> list[SourceFile]:
        """The files that can be parsed; asking parses all of them."""
        return [file for file in self._all if not file.error]

    def named(self, name: str) -> list[Definition]:
        """Return every definition of a name."""
        if name not in self._by_name and self._complete:
            return []
        if name not in self._by_name:
            defines = re.compile(rb"\b(?:def|class)\s+%s\b" % re.escape(name.encode()))
            files = [file for file in self._all if name and defines.search(file.data) and not file.error]
            self._by_name[name] = [d for file in files for d in self._definitions(file) if d.name == name]
        return self._by_name[name]

    def collect(self) -> None:
        """Parse all files now, which is quicker than looking through them name by name when most are asked for."""
        collected: dict[str, list[Definition]] = {}
        for file in self.files:
            for definition in self._definitions(file):
                collected.setdefault(definition.name, []).append(definition)
        self._by_name, self._complete = collected, True

    def _definitions(self, file: SourceFile) -> list[Definition]:
        if file.path not in self._by_file:
            self._by_file[file.path] = _definitions(file)
        return self._by_file[file.path]

    def called(self, file: SourceFile, call: cst.Call) -> Definition | None:
        """Return what a call in a file means, or None where that is not certain."""
        if file.path not in self._renamed:
            self._renamed[file.path] = _imported_names(file)
        name = self._renamed[file.path].get(callee(call), callee(call))
        found = self.named(name)
        own = [definition for definition in found if definition.file is file and not definition.owner]
        if len(own) == 1 and isinstance(call.func, cst.Name):
            return own[0]
        return found[0] if len(found) == 1 else None

    def calls_of(self, definition: Definition) -> list[tuple[SourceFile, cst.Call]]:
        """Return the calls in the project that mean a definition."""
        return [
            (file, call)
            for file in self._all
            if definition.name.encode() in file.data and not file.error
            for call in file.nodes(cst.Call)
            if (meant := self.called(file, call)) is not None and meant.node is definition.node
        ]


def _definitions(file: SourceFile) -> list[Definition]:
    found: list[Definition] = []
    nodes: list[cst.FunctionDef | cst.ClassDef] = [*file.nodes(cst.FunctionDef), *file.nodes(cst.ClassDef)]
    for node in nodes:
        around = next((n for n in file.ancestors(node) if isinstance(n, cst.FunctionDef | cst.ClassDef)), None)
        owner = around.name.value if isinstance(around, cst.ClassDef) else ""
        found.append(Definition(file, node, owner))
    return found


def _imported_names(file: SourceFile) -> dict[str, str]:
    """Return `{name here: name there}` for `from x import there as here`."""
    renamed: dict[str, str] = {}
    for statement in file.nodes(cst.ImportFrom):
        if isinstance(statement.names, cst.ImportStar):
            continue
        for alias in statement.names:
            if alias.asname is not None and isinstance(alias.asname.name, cst.Name):
                renamed[alias.asname.name.value] = attribute_chain(alias.name)
    return renamed
