"""What a draft says of one capability: how it is wired, or why it is not."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from parity.draft.definitions import Definition, Function, Project
from parity.draft.recognise import Candidate

__all__ = ["Found", "Gap", "Wired", "call_lines", "called_with", "imported", "literals", "place"]

_WIDTH = 112


@dataclass(frozen=True)
class Wired:
    """A capability that could be written in full.

    Attributes:
        body: the function's lines, without indentation; its parameters are those of the contract.
        sources: `file:line name` of everything that it calls.
        remarks: what a reader should check, one line each.
        uses: names that the draft's head must provide: `torch`, or helpers of `parity.adapters.drafted`.
    """

    body: tuple[str, ...]
    sources: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    uses: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Gap:
    """A capability that a person must write.

    Attributes:
        reason: what was not found, or could not be decided.
        found: `file:line name` of what would be needed and is there.
        body: lines to begin with, commented out in the draft.
    """

    reason: str
    found: tuple[str, ...] = ()
    body: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Everything that the wiring of a capability may look at."""

    project: Project
    parts: Mapping[str, Sequence[Candidate]]
    yaml_files: tuple[str, ...] = field(default=())

    def best(self, part: str) -> Definition | None:
        """Return the definition that fits a part best."""
        candidates = self.parts.get(part, ())
        return candidates[0].definition if candidates else None

    def official(self, part: str, name: str) -> Definition | None:
        """Return the best candidate if it has official's very name."""
        found = self.best(part)
        return found if found is not None and found.name == name else None


def imported(definition: Definition) -> str:
    """Return the line that imports a definition."""
    return f"from {definition.module.name} import {definition.name}"


def call_lines(prefix: str, arguments: Sequence[str]) -> list[str]:
    """Return `prefix(arguments)`, over several lines where it is long; `prefix` may begin with `return `."""
    line = f"{prefix}({', '.join(arguments)})"
    return [line] if len(line) <= _WIDTH else [f"{prefix}(", *(f"    {argument}," for argument in arguments), ")"]


def called_with(project: Project, name: str) -> Iterator[ast.Call]:
    """Yield the fork's own calls of a name."""
    for module in project.modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == name:
                yield node


def literals(project: Project, definition: Definition) -> dict[str, str]:
    """Return the constants that the fork's own calls give to required parameters, where all calls agree."""
    parameters = [p for p in definition.parameters() or () if p.required]
    given: dict[str, set[str]] = {}
    for call in called_with(project, definition.name):
        pairs = [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg]
        names = [p.name for p in definition.parameters() or ()]
        pairs += list(zip(names, call.args, strict=False))
        for name, value in pairs:
            text = ast.unparse(value) if isinstance(value, ast.Constant) else "?"
            given.setdefault(name or "", set()).add(text)
    single = {name: values.pop() for name, values in given.items() if len(values) == 1}
    return {p.name: single[p.name] for p in parameters if single.get(p.name, "?") != "?"}


def place(definition: Definition, method: str = "") -> str:
    """Return `file:line name`, or that of a method, as a draft names where something came from."""
    if not method:
        return f"{definition.where} {definition.name}"
    node: Function = definition.methods()[method]
    own = isinstance(definition.node, ast.ClassDef) and node in definition.node.body
    where = (
        f"{definition.module.shown}:{node.lineno}" if own and definition.home.own else f"{definition.where}, inherited"
    )
    return f"{where} {definition.name}.{method}"
