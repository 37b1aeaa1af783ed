"""One Python file: its text, its tree, and where each node of the tree stands in the text."""

from __future__ import annotations

import bisect
import io
import re
import tokenize
from collections.abc import Mapping
from functools import cached_property
from typing import TypeVar

import libcst as cst
from libcst.metadata import MetadataWrapper

from migrations.engine.limits import too_deep
from migrations.engine.model import Site
from migrations.engine.tree import Places, no_garbage_collection

__all__ = ["SourceFile", "decode_source"]

NodeT = TypeVar("NodeT", bound=cst.CSTNode)


def decode_source(data: bytes) -> tuple[str, str]:
    """Return a Python file's text, without a byte order mark, and its encoding (`utf-8-sig` where it has one).

    Line ends are kept.

    Raises:
        UnicodeDecodeError: the bytes are not of the declared encoding.
        SyntaxError: the declared encoding is not known, or there is none and the first lines are not UTF-8.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return data.decode(encoding), encoding


class SourceFile:
    """A parsed file. Parsing waits until something asks for the tree.

    Offsets are of bytes in the UTF-8 text, whatever the file's own encoding.

    Attributes:
        path: relative to the project, with forward slashes.
        text: without a byte order mark, line ends as in the file.
        encoding: with which the file is written again.
    """

    def __init__(self, path: str, text: str, encoding: str = "utf-8") -> None:
        self.path, self.text, self.encoding = path, text, encoding

    def __repr__(self) -> str:
        """Return the class and the path."""
        return f"SourceFile({self.path!r})"

    @cached_property
    def data(self) -> bytes:
        """The text in UTF-8."""
        return self.text.encode()

    @cached_property
    def _matches(self) -> dict[re.Pattern[bytes], bool]:
        return {}

    def matches(self, pattern: re.Pattern[bytes]) -> bool:
        """Whether the text has a match; the answer is kept, since several migrations ask the same."""
        if pattern not in self._matches:
            self._matches[pattern] = pattern.search(self.data) is not None
        return self._matches[pattern]

    @cached_property
    def module(self) -> cst.Module:
        """The tree.

        Raises:
            libcst.ParserSyntaxError: the text is not Python.
        """
        with no_garbage_collection():
            return cst.parse_module(self.text)

    @cached_property
    def error(self) -> str:
        """Why the text cannot be used, with the line; empty where it can."""
        if deep := too_deep(self.data):
            return f"{self.path}: {deep}, which cannot be parsed"
        try:
            text = self._places.text
        except cst.ParserSyntaxError as error:
            return f"{self.path}:{error.raw_line}: {error.message}"
        except RecursionError:
            return f"{self.path}: nested too deeply to be parsed"
        except Exception as error:  # LibCST's nodes have checks of their own, which are no syntax errors
            return f"{self.path}: cannot be parsed, {type(error).__name__}: {error}"
        # Edits are spans: where the tree is not the text, they would hit the wrong bytes.
        lost = "LibCST loses bytes of it: lines that end in CR alone, or form feeds before code"
        return "" if text == self.text else f"{self.path}: {lost}"

    @property
    def looked_into(self) -> bool:
        """Whether something has asked for the tree."""
        return "error" in self.__dict__ or "module" in self.__dict__

    @cached_property
    def wrapper(self) -> MetadataWrapper:
        """The tree with its metadata; its nodes are those of `module`."""
        return MetadataWrapper(self.module, unsafe_skip_copy=True)

    @cached_property
    def _places(self) -> Places:
        module = self.module
        with no_garbage_collection():
            return Places(module)

    @cached_property
    def _line_starts(self) -> list[int]:
        starts, position = [0], 0
        for line in self.data.splitlines(keepends=True):
            position += len(line)
            starts.append(position)
        return starts

    @cached_property
    def _nodes(self) -> Mapping[type[cst.CSTNode], list[cst.CSTNode]]:
        by_kind: dict[type[cst.CSTNode], list[cst.CSTNode]] = {}
        for node in self._places.nodes:
            by_kind.setdefault(type(node), []).append(node)
        return by_kind

    def nodes(self, kind: type[NodeT]) -> list[NodeT]:
        """Return all nodes of exactly this class, in the order of the text."""
        found = [node for node in self._nodes.get(kind, []) if isinstance(node, kind)]
        return sorted(found, key=lambda node: self.span(node)) if found else found

    @property
    def newline(self) -> str:
        """The line end that the file uses most, as LibCST found it."""
        return self.module.default_newline

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return the offsets of a node's first byte and of the byte behind it, without white space around it."""
        return self._places.spans[id(node)]

    def code(self, node: cst.CSTNode) -> str:
        """Return a node's text as it stands in the file."""
        start, end = self.span(node)
        return self.data[start:end].decode()

    def line(self, node: cst.CSTNode) -> int:
        """Return the number of a node's first line, from 1."""
        return self.line_at(self.span(node)[0])

    def line_at(self, offset: int) -> int:
        """Return the number of the line that holds an offset, from 1."""
        return bisect.bisect_right(self._line_starts, offset)

    def line_span(self, line: int) -> tuple[int, int]:
        """Return the offsets of a line, its end included; an empty span behind the last."""
        starts = self._line_starts
        begin = starts[line - 1]
        return begin, starts[line] if line < len(starts) else len(self.data)

    def site(self, node: cst.CSTNode) -> Site:
        """Return where a node stands."""
        start, end = self.span(node)
        line = self.line_at(start)
        column = len(self.data[self.line_span(line)[0] : start].decode()) + 1
        return Site(self.path, line, column, self.line_at(max(start, end - 1)))

    def parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        """Return the node around a node; None around the module."""
        return self._places.parents.get(id(node))

    def ancestors(self, node: cst.CSTNode) -> list[cst.CSTNode]:
        """Return the nodes around a node, innermost first, up to the module."""
        found = []
        around = self.parent(node)
        while around is not None:
            found.append(around)
            around = self.parent(around)
        return found

    def statement(self, node: cst.CSTNode) -> cst.BaseStatement | None:
        """Return the statement that a node is part of: a line, or a compound statement; None outside of any."""
        return next((n for n in (node, *self.ancestors(node)) if isinstance(n, cst.BaseStatement)), None)

    def function(self, node: cst.CSTNode) -> cst.FunctionDef | None:
        """Return the innermost function around a node."""
        return next((n for n in self.ancestors(node) if isinstance(n, cst.FunctionDef)), None)
