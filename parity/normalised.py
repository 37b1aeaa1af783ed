"""Whether two files say the same in other words: comments, formatting, docstrings and the package's own name aside."""

from __future__ import annotations

import ast
import re
from typing import Literal

import yaml  # type: ignore[import-untyped] # PyYAML ships no types

__all__ = ["Sameness", "renamed", "same_code"]

Sameness = Literal["comments and formatting", "comments, formatting and docstrings", ""]
"""In what two files differ at most; empty where they differ in code."""

_IMPORT = rb"(?m)^(?P<before>\s*(?:from|import)\s+)%s(?=[\s.])"
_LOGGER = rb"getLogger\((?P<quote>[\"'])%s(?P=quote)\)"


def renamed(data: bytes, package: str, official: str = "dinov2") -> bytes:
    """Return a file with a package's name in imports, and as the name of a logger, written as official's."""
    if package == official:
        return data
    name, new = re.escape(package.encode()), official.encode()
    data = re.sub(_IMPORT % name, lambda found: found["before"] + new, data)
    return re.sub(_LOGGER % name, lambda found: b"getLogger(" + found["quote"] + new + found["quote"] + b")", data)


def same_code(path: str, left: bytes, right: bytes) -> Sameness:
    """Return in what two files of different bytes differ at most.

    Args:
        path: tells Python from YAML by its ending.
        left: one file.
        right: the other.
    """
    if path.endswith(".py"):
        for docstrings, words in ((True, "comments and formatting"), (False, "comments, formatting and docstrings")):
            dumped = [_dumped(data, docstrings=docstrings) for data in (left, right)]
            if dumped[0] is not None and dumped[0] == dumped[1]:
                return words  # type: ignore[return-value] # mypy sees a str
        return ""
    loaded = [_loaded(data) for data in (left, right)]
    return "comments and formatting" if loaded[0] is not None and loaded[0] == loaded[1] else ""


def _dumped(data: bytes, *, docstrings: bool) -> str | None:
    """Return the syntax tree as text, without places; None where it cannot be parsed."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not docstrings:
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                _without_docstring(node)
    return ast.dump(tree)


def _without_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]


def _loaded(data: bytes) -> object | None:
    try:
        return repr(yaml.safe_load(data))  # its text tells 1 from 1.0 and from true
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        return None
