"""Counts the lines of official training code that something executes, with coverage.py."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from coverage import Coverage

from parity.errors import NoVerdictError

__all__ = ["FILES", "FileLines", "executed", "owner_of", "spans"]

FILES: tuple[str, ...] = (
    "train/ssl_meta_arch.py",
    "loss/*.py",
    "data/masking.py",
    "data/collate.py",
    "data/augmentations.py",
    "data/transforms.py",
    "data/samplers.py",
    "utils/param_groups.py",
    "layers/*.py",
    "models/vision_transformer.py",
)
"""Official files that say what is trained and how, below `dinov2/`: POSIX patterns."""

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_ANCHOR = "dinov2/train/ssl_meta_arch.py"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class FileLines:
    """One official file.

    Attributes:
        name: below `dinov2/`.
        source: its text.
        statements: line numbers of its statements; a statement of several lines counts once, docstrings not at all.
        left: those that were not executed.
    """

    name: str
    source: str
    statements: tuple[int, ...]
    left: tuple[int, ...]

    @property
    def executed(self) -> int:
        """How many statements were executed."""
        return len(self.statements) - len(self.left)


def executed(work: Callable[[], _Result]) -> tuple[_Result, tuple[FileLines, ...]]:
    """Do some work and return what it gives, and each file of `FILES` with the lines that it executed.

    Only this process is measured. A file that was never imported counts, with none of its lines executed.

    Raises:
        NoVerdictError: the work imported no official code, or that of several folders.
    """
    cover = Coverage(data_file=None, include=[f"*/dinov2/{pattern}" for pattern in FILES], config_file=False)
    cover.set_option("run:disable_warnings", ["no-data-collected"])  # an error of ours says so
    cover.clear_exclude()  # a remark in official code must not hide a line
    cover.start()
    try:
        result = work()
    finally:
        cover.stop()
    roots = {Path(name).parents[1] for name in cover.get_data().measured_files() if name.endswith(_ANCHOR)}
    if len(roots) != 1:
        found = ", ".join(sorted(map(str, roots))) or "none"
        raise NoVerdictError(f"official code was imported from these folders: {found}; expected exactly one")
    (root,) = roots
    return result, tuple(_lines(cover, root, path) for pattern in FILES for path in sorted(root.glob(pattern)))


def _lines(cover: Coverage, root: Path, path: Path) -> FileLines:
    _, statements, _, left, _ = cover.analysis2(str(path))
    return FileLines(path.relative_to(root).as_posix(), path.read_text("utf-8"), tuple(statements), tuple(left))


def owner_of(source: str, line: int) -> str:
    """Return the qualified name of the innermost function or class that a line is inside of; empty for none."""
    around = [node for node in _definitions(source) if _inside(node, line)]
    return ".".join(node.name for node in sorted(around, key=lambda node: node.lineno))


@lru_cache(maxsize=4)
def _definitions(source: str) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, ...]:
    return tuple(node for node in ast.walk(ast.parse(source)) if isinstance(node, _DEFINITIONS))


def _inside(node: ast.stmt, line: int) -> bool:
    return node.lineno < line <= (node.end_lineno or 0)


def spans(lines: Iterable[int]) -> str:
    """Return line numbers as spans: `3, 7-9`."""
    ranges: list[list[int]] = []
    for line in sorted(lines):
        if ranges and line == ranges[-1][-1] + 1:
            ranges[-1][1:] = [line]
        else:
            ranges.append([line])
    return ", ".join("-".join(map(str, r)) for r in ranges)
