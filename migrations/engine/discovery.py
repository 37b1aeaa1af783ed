"""Which Python files a path holds, and what stands in the way of reading the others.

Links to folders are not followed: what they lead to is either below the path anyway, or somewhere that the user did
not name (a data set, another project), and following them is how walks become endless.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from migrations.engine.project import Project
from migrations.engine.source import SourceFile, decode_source
from migrations.errors import UsageError

__all__ = ["MAX_BYTES", "Found", "Remark", "Tree", "discover"]

MAX_BYTES = 2_000_000
"""A larger file is generated or data: it is skipped with a remark. transformers' largest is a tenth of it."""

_SKIPPED = frozenset(
    {".git", ".hg", ".svn", ".tox", ".nox", ".eggs", ".venv", ".ipynb_checkpoints", "node_modules", "__pycache__"}
    | {".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".cache", "site-packages"}
)
_OUTPUTS = frozenset({"build", "dist"})
_TEXTS = frozenset({".sh", ".bash", ".slurm", ".sbatch", ".job", ".yaml", ".yml", ".toml", ".cfg", ".ini"})
"""Launchers and configurations, which set flags: read, never written."""


@dataclass(frozen=True, order=True)
class Remark:
    """Something that the user should know about a file, and that changes no state.

    Attributes:
        path: relative to the root.
        text: one sentence without a full stop.
        line: from 1; 0 for the whole file.
    """

    path: str
    text: str
    line: int = 0

    def __str__(self) -> str:
        """Return `path:line: text`."""
        return f"{self.path}:{self.line}: {self.text}" if self.line else f"{self.path}: {self.text}"


@dataclass(frozen=True)
class Found:
    """A file as it was read.

    Attributes:
        path: on the disk, absolute.
        data: its bytes.
        is_link: whether the path is a symbolic link; such a file is never written.
    """

    path: Path
    data: bytes = field(repr=False)
    is_link: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass
class Tree:
    """The readable Python files below a path.

    Attributes:
        given: the path as the user wrote it.
        root: folder that the paths of `project` are relative to.
        project: the files.
        found: how each was read, by the project's path.
        remarks: what was skipped and why; one for each.
        folders: folders that were left out (version control, environments, caches, outputs), relative to the root.
    """

    given: str
    root: Path
    project: Project = field(default_factory=lambda: Project([]))
    found: Mapping[str, Found] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


def discover(given: str) -> Tree:
    """Read the Python files below a path, or the one file that it names.

    Raises:
        UsageError: the path does not exist, or cannot be read at all.
    """
    path = Path(os.path.realpath(Path(given).expanduser()))
    if not path.exists():
        raise UsageError(f"{given}: there is no such file or folder; give the folder that holds your training code")
    if path.is_dir():
        tree = Tree(given, path)
        places = _walk(path, tree)
    elif path.is_file():
        tree = Tree(given, path.parent)
        places = iter([path])
    else:
        raise UsageError(f"{given}: neither a file nor a folder")
    found: dict[str, Found] = {}
    files = []
    texts: dict[str, str] = {}
    for place in places:
        name = _name(place, tree)
        if place.suffix.lower() in _TEXTS and path.is_dir():
            texts.update(_text(place, name))
            continue
        try:
            data, text, encoding = _read(place)
        except _SkippedError as error:
            tree.remarks.append(Remark(name, str(error)))
            continue
        files.append(SourceFile(name, text, encoding))
        found[name] = Found(place, data, place.is_symlink())
    tree.project, tree.found = Project(files, texts), found
    if not files:
        why = f": {tree.remarks[0]}" if tree.remarks else ""
        raise UsageError(
            f"{given}: no Python file that can be read{why}; give the folder that holds your training code"
        )
    return tree


def printable_path(name: str) -> str:
    """Return a path as text that any output can hold: bytes that are no UTF-8 become escapes."""
    return name.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")


def _walk(root: Path, tree: Tree) -> Iterator[Path]:
    """Yield the files to read, folders in the order of their names."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            tree.remarks.append(_remark(folder, tree, f"folder cannot be read, {error.strerror}"))
            continue
        below = []
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                yield from _linked(path, tree)
            elif entry.is_dir(follow_symlinks=False):
                if _is_left_out(path):
                    tree.folders.append(_name(path, tree))
                else:
                    below.append(path)
            elif path.suffix == ".py" or path.suffix.lower() in _TEXTS:
                yield path
        waiting.extend(reversed(below))


def _is_left_out(folder: Path) -> bool:
    if folder.name in _SKIPPED or folder.name.endswith(".egg-info"):
        return True
    if (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir():
        return True
    # Someone's package may be called `build`; what a build leaves is none.
    return folder.name in _OUTPUTS and not (folder / "__init__.py").is_file()


def _linked(link: Path, tree: Tree) -> Iterator[Path]:
    """Yield a link to a Python file outside of the root; say what becomes of other links that could hold code."""
    target = Path(os.path.realpath(link))
    if target.is_dir():
        tree.remarks.append(_remark(link, tree, f"link to the folder {printable_path(str(target))}, not followed"))
    elif link.suffix != ".py":
        return
    elif not target.exists():
        tree.remarks.append(_remark(link, tree, "link that leads nowhere or in a circle"))
    elif target.is_relative_to(tree.root):
        tree.remarks.append(_remark(link, tree, f"link to {_name(target, tree)}, looked at there"))
    else:
        yield link


class _SkippedError(Exception):
    """A file is left out; the message says why."""


def _read(path: Path) -> tuple[bytes, str, str]:
    """Return a file's bytes, text and encoding."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise _SkippedError("not a regular file")
        if status.st_size > MAX_BYTES:
            size, limit = f"{status.st_size / 1e6:.1f} MB", f"{MAX_BYTES / 1e6:.0f} MB"
            raise _SkippedError(f"skipped, {size} is more than {limit}: generated, or data")
        data = path.read_bytes()
    except OSError as error:
        raise _SkippedError(f"cannot be read, {error.strerror}") from error
    if b"\0" in data:
        raise _SkippedError("skipped, holds zero bytes, so it is no Python source")
    return data, *_decoded(data)


def _text(path: Path, name: str) -> dict[str, str]:
    """Return a launcher or configuration by its name; nothing where it cannot be read or is data."""
    try:
        readable = stat.S_ISREG(path.stat().st_mode) and path.stat().st_size <= MAX_BYTES
        return {name: path.read_bytes().decode(errors="replace")} if readable else {}
    except OSError:
        return {}


def _decoded(data: bytes) -> tuple[str, str]:
    try:
        text, encoding = decode_source(data)
        text.encode()
        # What is written must be what was read but for the edits.
        if encoding not in ("utf-8", "utf-8-sig") and text.encode(encoding) != data:
            raise _SkippedError(f"skipped, would not come back as the same bytes in its encoding {encoding}")
    except UnicodeError as error:
        raise _SkippedError(f"skipped, not in its encoding: {error}") from error
    except (SyntaxError, LookupError) as error:
        raise _SkippedError(f"skipped, its encoding is not known: {error}") from error
    return text, encoding


def _name(path: Path, tree: Tree) -> str:
    return printable_path(path.relative_to(tree.root).as_posix())


def _remark(path: Path, tree: Tree, text: str) -> Remark:
    return Remark(_name(path, tree), text)
