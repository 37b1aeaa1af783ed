"""Making edits of nodes, and carrying edits out on a text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import libcst as cst

from migrations.engine.model import Edit
from migrations.engine.source import SourceFile

__all__ = ["OverlapError", "apply_edits", "delete_statement", "insert_after", "insert_before", "replace"]


class OverlapError(ValueError):
    """Two edits of one file touch the same bytes."""


def replace(file: SourceFile, node: cst.CSTNode, code: str) -> Edit:
    """Return the edit that puts `code` in a node's place; white space and comments around it stay.

    So do the decorators of a function or class, which LibCST does not count among what it spans.
    """
    start, end = file.span(node)
    return Edit(file.path, start, end, _with_newlines(code, file))


def insert_before(file: SourceFile, statement: cst.BaseStatement, code: str) -> Edit:
    """Return the edit that puts lines above a statement and its decorators, in its indentation."""
    start, _ = file.line_span(_first_line(file, statement))
    return Edit(file.path, start, start, _indented(file, statement, code))


def insert_after(file: SourceFile, statement: cst.BaseStatement, code: str) -> Edit:
    """Return the edit that puts lines below a statement, in its indentation."""
    end = _end_of_lines(file, statement)
    text = _indented(file, statement, code)
    if end and not file.data[:end].endswith((b"\n", b"\r")):
        text = file.newline + text.removesuffix(file.newline)
    return Edit(file.path, end, end, text)


def delete_statement(file: SourceFile, statement: cst.BaseStatement) -> Edit:
    """Return the edit that removes a statement with its lines and decorators; comments above it stay.

    `pass` takes its place where a block would be empty without it. Of several statements on a line, joined by
    semicolons, all are removed: look before you call.
    """
    start, end = file.line_span(_first_line(file, statement))[0], _end_of_lines(file, statement)
    block = file.parent(statement)
    alone = isinstance(block, cst.IndentedBlock) and len(block.body) == 1
    return Edit(file.path, start, end, _indented(file, statement, "pass") if alone else "")


def apply_edits(file: SourceFile, edits: Iterable[Edit]) -> str:
    """Return a file's text with edits carried out.

    Raises:
        OverlapError: two of them touch the same bytes; the message names their lines.
        ValueError: one is of another file, or outside of the text.
    """
    parts, position = [], 0
    last: Edit | None = None
    for edit in sorted(set(edits), key=lambda edit: (edit.start, edit.end)):
        if edit.path != file.path or not 0 <= edit.start <= edit.end <= len(file.data):
            raise ValueError(f"edit {edit.path}:{edit.start}-{edit.end} does not fit {file.path}")
        if last is not None and (edit.start < last.end or (edit.start, edit.end) == (last.start, last.end)):
            lines = f"{file.line_at(last.start)} and {file.line_at(edit.start)}"
            raise OverlapError(
                f"{file.path}: two edits touch the same code, lines {lines}; apply one at a time, --only"
            )
        parts += [file.data[position : edit.start], edit.text.encode()]
        position, last = edit.end, edit
    return b"".join([*parts, file.data[position:]]).decode()


def _first_line(file: SourceFile, statement: cst.BaseStatement) -> int:
    decorators = statement.decorators if isinstance(statement, cst.FunctionDef | cst.ClassDef) else ()
    return min(file.line(node) for node in (statement, *decorators))


def _end_of_lines(file: SourceFile, statement: cst.BaseStatement) -> int:
    _, end = file.span(statement)
    return file.line_span(file.line_at(max(end - 1, 0)))[1]


def _indented(file: SourceFile, statement: cst.BaseStatement, code: str) -> str:
    """Return whole lines, in a statement's indentation and the file's line ends."""
    begin, _ = file.line_span(file.line(statement))
    line = file.data[begin : file.span(statement)[0]].decode()
    indent = line[: len(line) - len(line.lstrip())]
    block = textwrap.indent(textwrap.dedent(code).strip("\n"), indent, lambda text: bool(text.strip()))
    return _with_newlines(block + "\n", file)


def _with_newlines(code: str, file: SourceFile) -> str:
    return code if file.newline == "\n" else code.replace("\r\n", "\n").replace("\n", file.newline)
