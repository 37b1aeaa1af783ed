"""The Python files of a fork, parsed but never imported, and the names under which Python would import them."""

from __future__ import annotations

import ast
import os
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from keyword import iskeyword
from pathlib import Path

from parity.errors import UsageError

__all__ = ["Module", "Unreadable", "parse_file", "python_files", "read_modules"]

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist", "tests", "test", "docs"})
_LARGEST = 2_000_000


@dataclass(frozen=True)
class Module:
    """One parsed file.

    Attributes:
        file: where it is.
        shown: its path as the draft and messages name it.
        root: the folder that must be on `sys.path`.
        name: its dotted name there; that of the package for an `__init__.py`.
        tree: its syntax tree.
        own: whether it belongs to the fork rather than to an installed library.
    """

    file: Path
    shown: str
    root: Path
    name: str
    tree: ast.Module = field(repr=False, compare=False)
    own: bool = True

    @property
    def importable(self) -> bool:
        """Whether its name can stand in an import statement."""
        return all(part.isidentifier() and not iskeyword(part) for part in self.name.split("."))

    @property
    def package(self) -> str:
        """The package that its relative imports start from."""
        return self.name if self.file.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be parsed, and why; it stops nothing."""

    shown: str
    reason: str


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the `.py` files below a folder in order; tests, documents, environments and hidden folders are left out."""
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED and not name.startswith(".") and not (here / name / "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("test_") and name not in ("conftest.py", "setup.py"):
                yield here / name


def parse_file(file: Path) -> ast.Module:
    """Parse a file in the encoding that it declares.

    Raises:
        ValueError: it cannot be read, decoded or parsed; the message says where.
    """
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            raise ValueError(f"no regular file of at most {_LARGEST:,} bytes")
        with tokenize.open(file) as opened:
            return ast.parse(opened.read(), filename=str(file))
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_modules(path: Path) -> tuple[list[Module], list[Unreadable]]:
    """Parse every Python file of a fork.

    Args:
        path: a folder, or a single `.py` file.

    Raises:
        UsageError: there is no such path, or no Python file in it.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist; give the folder of a fork, or its single .py file")
    given = path.resolve()
    files = (
        [given] if given.is_file() and given.suffix == ".py" else list(python_files(given)) if given.is_dir() else []
    )
    if not files:
        raise UsageError(f"{path} holds no Python file that could be read; give the folder of a fork, or a .py file")
    top = given if given.is_dir() else given.parent
    parsed: dict[Path, ast.Module] = {}
    unreadable = []
    for file in files:
        tree = _tree_or_reason(file)
        if isinstance(tree, str):
            unreadable.append(Unreadable(file.relative_to(top).as_posix(), tree))
        else:
            parsed[file] = tree
    if not parsed:
        told = "; ".join(f"{file.shown}: {file.reason}" for file in unreadable[:4])
        raise UsageError(f"none of the {len(unreadable)} Python files of {path} can be parsed ({told})")
    votes = _votes(parsed, top)
    return [_module(file, tree, top, votes) for file, tree in parsed.items()], unreadable


def _tree_or_reason(file: Path) -> ast.Module | str:
    try:
        return parse_file(file)
    except ValueError as error:
        return str(error)


def _module(file: Path, tree: ast.Module, top: Path, votes: Counter[Path]) -> Module:
    root = _root(file, top, votes)
    parts = list(file.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return Module(file, file.relative_to(top).as_posix(), root, ".".join(parts), tree)


def _root(file: Path, top: Path, votes: Counter[Path]) -> Path:
    """Return the folder from which a file is imported.

    A folder inside a package is none. Among those that are left, from the given one down to the file's own, the one
    from which most of the fork's absolute imports resolve wins, and the uppermost of equals.
    """
    outside = file.parent
    while (outside / "__init__.py").exists() and outside != outside.parent:
        outside = outside.parent
    if not outside.is_relative_to(top):  # the given folder is a package, or lies in one
        return outside
    chain = [outside, *(folder for folder in outside.parents if folder.is_relative_to(top))]
    # `train-dino/losses.py` can be imported from its own folder alone.
    usable = [folder for folder in chain if all(map(str.isidentifier, file.parent.relative_to(folder).parts))]
    return max(reversed(usable), key=lambda folder: votes[folder])


def _votes(parsed: dict[Path, ast.Module], top: Path) -> Counter[Path]:
    """Count for each folder how many absolute imports of the fork would be found from it."""
    folders = {folder for file in parsed for folder in [file.parent, *file.parents] if folder.is_relative_to(top)}
    heads: Counter[tuple[str, ...]] = Counter()
    for tree in parsed.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                heads.update(tuple(alias.name.split(".")[:2]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                heads[tuple(node.module.split(".")[:2])] += 1
    known = {file.with_suffix("") for file in parsed} | {file.parent for file in parsed}
    votes: Counter[Path] = Counter()
    for folder in folders:
        votes[folder] = sum(count for head, count in heads.items() if folder.joinpath(*head) in known)
    return votes
