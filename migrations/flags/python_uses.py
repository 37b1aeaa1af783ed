"""Flags in Python: argument parsers, configuration classes, launchers that build a command or a namespace."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.edits import delete_statement
from migrations.engine.model import Edit
from migrations.engine.source import SourceFile
from migrations.flags.uses import DEFINE, READ, SET, Use, erase, option_pattern, uncovered
from migrations.flow.flags import Flag
from migrations.flow.nodes import argument, callee, literal

__all__ = ["definition", "python_uses"]

_MAKERS = ("Namespace", "SimpleNamespace", "dict", "set_defaults", "update", "EasyDict")
"""Calls whose keywords set flags."""

_PASSED_WHOLE = re.compile(rb"\*\*\s*(vars\s*\(|[\w.]+\.__dict__)")
_COMPUTED = "its value is computed here; remove it by hand"


def definition(flag: Flag) -> Use:
    """Return where a parser defines a flag."""
    statement = flag.file.statement(flag.call)
    default = "" if flag.default is ... else repr(flag.default)
    use = Use(flag.name, DEFINE, flag.file.path, flag.file.line(flag.call), default)
    if statement is not None and _alone(flag.file, statement, flag.call):
        return Use(**{**vars(use), "edits": (delete_statement(flag.file, statement),)})
    return Use(**{**vars(use), "why": "the definition is part of a larger statement; remove it by hand"})


def python_uses(file: SourceFile, name: str) -> Iterator[Use]:
    """Yield where a file sets and reads a flag, and where a class defines it; parsers' definitions are left out."""
    handled = [file.span(call) for call in file.nodes(cst.Call) if callee(call) == "add_argument"]
    for use, span in _options(file, name):
        handled.append(span)
        yield use
    yield from _in_commands(file, name, handled)
    yield from _attributes(file, name)
    yield from _strings(file, name, handled)
    yield from _keywords(file, name)
    for node in file.nodes(cst.AnnAssign):
        if isinstance(node.target, cst.Name) and node.target.value == name and _in_class(file, node):
            yield _statement_use(file, name, DEFINE, node, _shown(file, node.value))
    if _PASSED_WHOLE.search(file.data):
        for param in file.nodes(cst.Param):
            if param.name.value == name:
                yield Use(name, READ, file.path, file.line(param), "a parameter, which `**vars(args)` may fill")


def _options(file: SourceFile, name: str) -> Iterator[tuple[Use, tuple[int, int]]]:
    """Yield `"--flag", "value"` and `"--flag=value"` in lists and tuples, with the span of both."""
    pattern = re.compile(option_pattern(name) + r"(=(.*))?", re.DOTALL)
    sequences: list[cst.List | cst.Tuple] = [*file.nodes(cst.List), *file.nodes(cst.Tuple)]
    for node in sequences:
        items = [element.value for element in node.elements]
        for i, item in enumerate(items):
            text = literal(item)
            match = pattern.fullmatch(text) if isinstance(text, str) else None
            if match is None:
                continue
            last, value = item, match.group(2) or ""
            if match.group(1) is None and i + 1 < len(items) and not _is_option(items[i + 1]):
                last = items[i + 1]
                found = literal(last)
                value = "" if found is ... else str(found)
            start, end = file.span(item)[0], file.span(last)[1]
            edit = erase(file, start, end)
            yield Use(name, SET, file.path, file.line(item), value, (edit,), option=True), (start, end)


def _is_option(item: cst.BaseExpression) -> bool:
    value = literal(item)
    return isinstance(value, str) and value.startswith("--")


def _in_commands(file: SourceFile, name: str, handled: list[tuple[int, int]]) -> Iterator[Use]:
    """Yield `--flag` inside of longer strings, which no edit takes apart; comments and docstrings do not count."""
    silent = [file.span(comment) for comment in file.nodes(cst.Comment)]
    silent += [file.span(s) for s in file.nodes(cst.SimpleString) if isinstance(file.parent(s), cst.Expr)]
    pattern = re.compile(option_pattern(name).encode() + rb"(?:[ =]([^\s\"'\\]+))?")
    for match in pattern.finditer(file.data):
        if uncovered(handled, match.start()) and uncovered(silent, match.start()):
            value = (match.group(1) or b"").decode(errors="replace")
            why = "it is part of a string; remove it by hand"
            yield Use(name, SET, file.path, file.line_at(match.start()), value, (), why, option=True)


def _attributes(file: SourceFile, name: str) -> Iterator[Use]:
    for node in file.nodes(cst.Attribute):
        if node.attr.value != name:
            continue
        parent = file.parent(node)
        if isinstance(parent, cst.AssignTarget | cst.AnnAssign) and parent.children[0] is node:
            yield _assignment(file, name, parent)
        elif not isinstance(parent, cst.Del):
            yield Use(name, READ, file.path, file.line(node), receiver=file.code(node.value))


def _strings(file: SourceFile, name: str, handled: list[tuple[int, int]]) -> Iterator[Use]:
    """Yield places that name the flag by a string: keys of dicts, subscripts, `getattr` and `setattr`."""
    for node in file.nodes(cst.SimpleString):
        if literal(node) != name or not uncovered(handled, file.span(node)[0]):
            continue
        parent = file.parent(node)
        line = file.line(node)
        subscript = next((n for n in file.ancestors(node)[:4] if isinstance(n, cst.Subscript)), None)
        around = file.parent(subscript) if subscript is not None else None
        call = file.parent(parent) if isinstance(parent, cst.Arg) else None
        if isinstance(parent, cst.DictElement) and parent.key is node:
            edits, why = _erased(file, file.span(node)[0], file.span(parent.value)[1], parent.value)
            yield Use(name, SET, file.path, line, _shown(file, parent.value), edits, why)
        elif isinstance(parent, cst.Index) and isinstance(around, cst.AssignTarget):
            yield _assignment(file, name, around)
        elif isinstance(call, cst.Call) and callee(call) == "setattr":
            value = argument(call, "value", 2)
            yield _statement_use(file, name, SET, call, _shown(file, value), value)
        elif not isinstance(parent, cst.Expr):
            yield Use(name, READ, file.path, line)


def _keywords(file: SourceFile, name: str) -> Iterator[Use]:
    for call in file.nodes(cst.Call):
        if callee(call) not in _MAKERS:
            continue
        for arg in call.args:
            if arg.keyword is not None and arg.keyword.value == name:
                edits, why = _erased(file, file.span(arg.keyword)[0], file.span(arg.value)[1], arg.value)
                yield Use(name, SET, file.path, file.line(arg.keyword), _shown(file, arg.value), edits, why)


def _assignment(file: SourceFile, name: str, target: cst.CSTNode) -> Use:
    """Return the use of `args.flag = value`; of several targets, none is removed."""
    statement = target if isinstance(target, cst.AnnAssign) else file.parent(target)
    value = getattr(statement, "value", None)
    code = _shown(file, value)
    several = isinstance(statement, cst.Assign) and len(statement.targets) > 1
    if statement is None or several:
        return Use(name, SET, file.path, file.line(target), code, (), "it is one of several targets; remove it by hand")
    return _statement_use(file, name, SET, statement, code, value)


def _statement_use(
    file: SourceFile, name: str, kind: str, node: cst.CSTNode, value: str, computed: cst.CSTNode | None = None
) -> Use:
    statement = file.statement(node)
    use = Use(name, kind, file.path, file.line(node), value)
    if computed is not None and not _harmless(computed):
        return Use(**{**vars(use), "why": _COMPUTED})
    if statement is None or not _alone(file, statement, node):
        return Use(**{**vars(use), "why": "it is part of a larger statement; remove it by hand"})
    return Use(**{**vars(use), "edits": (delete_statement(file, statement),)})


def _erased(file: SourceFile, start: int, end: int, value: cst.CSTNode) -> tuple[tuple[Edit, ...], str]:
    return ((erase(file, start, end),), "") if _harmless(value) else ((), _COMPUTED)


def _shown(file: SourceFile, value: cst.CSTNode | None) -> str:
    """Return a literal as it stands in the file; what is computed has no value to show."""
    return file.code(value) if value is not None and literal(value) is not ... else ""


def _harmless(value: cst.CSTNode) -> bool:
    """Whether dropping an expression drops no effect: a literal, a name, an attribute."""
    return literal(value) is not ... or isinstance(value, cst.Name | cst.Attribute)


def _alone(file: SourceFile, statement: cst.BaseStatement, node: cst.CSTNode) -> bool:
    """Whether a line holds one statement, and that is the node."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return False
    small = statement.body[0]
    return small is node or (isinstance(small, cst.Expr) and small.value is node)


def _in_class(file: SourceFile, node: cst.CSTNode) -> bool:
    around = next((n for n in file.ancestors(node) if isinstance(n, cst.FunctionDef | cst.ClassDef)), None)
    return isinstance(around, cst.ClassDef)
