"""Where a flag receives a value: in code beside its definition, in launchers, in YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from migrations.engine.model import Site
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.nodes import argument, callee, literal

__all__ = ["Setting", "settings"]


@dataclass(frozen=True)
class Setting:
    """A place that sets a flag, its definition left out.

    Attributes:
        site: where.
        value: the literal; Ellipsis where it is none that can be read.
        in_code: whether a Python file sets it, not a launcher or YAML.
    """

    site: Site
    value: object
    in_code: bool


def settings(project: Project, name: str) -> list[Setting]:
    """Return every place that sets `name`: `x.name = …`, `f(name=…)`, `{"name": …}`, `--name …`, `name: …`.

    What sets flags in other ways, such as a checkpoint that holds pickled ones, is not seen.
    """
    found: list[Setting] = []
    pattern = re.compile(re.escape(name.encode()).replace(b"_", b"[-_]"))
    for file in project.matching(pattern):
        found += _in_code(file, name)
    option = re.escape(name).replace("_", "[-_]")
    line_pattern = re.compile(rf"""(?<![\w-])(?:--)?{option}["']?(?:\s*[=:]\s*|\s+)["']?([\w.$-]*)""")
    for path, text in project.texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            for match in line_pattern.finditer(line.split("#")[0]):
                value: object = match.group(1) or ...
                found.append(Setting(Site(path, number, match.start() + 1, number), _plain(value), False))
    return found


def _plain(value: object) -> object:
    """A variable of a shell is no value that can be read."""
    return ... if isinstance(value, str) and "$" in value else value


def _in_code(file: SourceFile, name: str) -> list[Setting]:
    found: list[tuple[cst.CSTNode, cst.CSTNode | None]] = []
    for assign in file.nodes(cst.Assign):
        targets = [target.target for target in assign.targets]
        found += [(assign, assign.value) for target in targets if _is_attribute(target, name)]
    for call in file.nodes(cst.Call):
        if callee(call) == "add_argument":
            continue
        found += [(arg, arg.value) for arg in call.args if arg.keyword is not None and arg.keyword.value == name]
        if callee(call) == "setattr" and literal(argument(call, "name", 1)) == name:
            found.append((call, argument(call, "value", 2)))
    for element in file.nodes(cst.DictElement):
        if literal(element.key) == name:
            found.append((element, element.value))
    for text in file.nodes(cst.SimpleString):
        if _option(text) == name and not _is_definition(file, text):
            found.append((text, None))
    return [Setting(file.site(node), literal(value), True) for node, value in found]


def _is_attribute(target: cst.CSTNode, name: str) -> bool:
    return isinstance(target, cst.Attribute) and target.attr.value == name


def _option(text: cst.SimpleString) -> str:
    """Return the flag that `"--a-flag"` or `"--a_flag=value"` names; empty for other strings."""
    value = text.evaluated_value
    return value[2:].split("=")[0].replace("-", "_") if isinstance(value, str) and value.startswith("--") else ""


def _is_definition(file: SourceFile, text: cst.SimpleString) -> bool:
    argument_node = file.parent(text)
    call = file.parent(argument_node) if argument_node is not None else None
    return isinstance(call, cst.Call) and callee(call) == "add_argument"
