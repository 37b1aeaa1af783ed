"""Command-line flags: where `add_argument` defines them, and where the program reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.nodes import argument, callee, literal

__all__ = ["Flag", "flag_reads", "flags"]

_DEFINES = re.compile(rb"add_argument")


@dataclass(frozen=True)
class Flag:
    """A flag of an argument parser.

    Attributes:
        name: as an attribute of the parsed arguments, `mask_ratio_min`.
        default: the literal default, or Ellipsis where it is none or not given.
        choices: the literal choices; empty where there are none.
        file, call: where it is defined.
    """

    name: str
    default: object
    choices: tuple[object, ...]
    file: SourceFile
    call: cst.Call


def flags(project: Project) -> dict[str, list[Flag]]:
    """Return the flags of every argument parser of a project, by name."""
    found: dict[str, list[Flag]] = {}
    for file in project.matching(_DEFINES):
        for call in file.nodes(cst.Call):
            if callee(call) == "add_argument" and (name := _name(call)):
                choices = literal(argument(call, "choices"))
                options = tuple(choices) if isinstance(choices, list | tuple | set) else ()
                found.setdefault(name, []).append(Flag(name, literal(argument(call, "default")), options, file, call))
    return found


def flag_reads(project: Project, name: str) -> list[tuple[SourceFile, cst.CSTNode]]:
    """Return the places that read `ANYTHING.name`, `getattr(x, "name")` or `x["name"]`, in files of the project."""
    found: list[tuple[SourceFile, cst.CSTNode]] = []
    for file in project.matching(re.compile(re.escape(name.encode()))):
        nodes: list[cst.CSTNode] = [n for n in file.nodes(cst.Attribute) if n.attr.value == name]
        nodes += [c for c in file.nodes(cst.Call) if callee(c) == "getattr" and literal(argument(c, "name", 1)) == name]
        nodes += [n for n in file.nodes(cst.Subscript) if _key(n) == name]
        found += [(file, node) for node in nodes if not isinstance(file.parent(node), cst.AssignTarget)]
    return found


def _name(call: cst.Call) -> str:
    dest = literal(argument(call, "dest"))
    if isinstance(dest, str):
        return dest
    options = [literal(arg.value) for arg in call.args if arg.keyword is None]
    long = [option for option in options if isinstance(option, str) and option.startswith("--")]
    return long[0][2:].replace("-", "_") if long else ""


def _key(node: cst.Subscript) -> object:
    """Return the literal in `x[literal]`; Ellipsis where there is none."""
    index = node.slice[0].slice if len(node.slice) == 1 else None
    return literal(index.value) if isinstance(index, cst.Index) else ...
