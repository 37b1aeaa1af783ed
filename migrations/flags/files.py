"""The files that flags are looked for in, and writing them so that each is its old or its new self."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from migrations.engine.discovery import Found as Read
from migrations.engine.source import SourceFile, decode_source
from migrations.engine.writing import write_all

__all__ = ["Found", "find_files", "write_files"]

PYTHON, YAML_FILES = (".py",), (".yaml", ".yml")
SHELL = (".sh", ".bash", ".slurm", ".sbatch", ".job")
_SKIPPED = {"__pycache__", "node_modules", "site-packages", "build", "dist", "venv"}


@dataclass
class Found:
    """Files by kind, each by its path as it is shown.

    Attributes:
        python, shell, yaml: decoded files.
        paths: where each is on the disk.
        original: bytes, as they were read.
        errors: why a file could not be read, by path.
    """

    python: dict[str, SourceFile] = field(default_factory=dict)
    shell: dict[str, SourceFile] = field(default_factory=dict)
    yaml: dict[str, SourceFile] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    original: dict[str, bytes] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, SourceFile]:
        """All of them."""
        return {**self.python, **self.shell, **self.yaml}

    def with_texts(self, texts: Mapping[str, str]) -> Found:
        """Return the same files, some with a new text."""

        def renewed(files: dict[str, SourceFile]) -> dict[str, SourceFile]:
            new = {path: SourceFile(path, texts[path], file.encoding) for path, file in files.items() if path in texts}
            return {**files, **new}

        return replace(self, python=renewed(self.python), shell=renewed(self.shell), yaml=renewed(self.yaml))


def find_files(given: Iterable[Path]) -> Found:
    """Read files, and those of folders whose names or first lines say that they are Python, shell or YAML.

    Hidden folders, virtual environments and links to folders are not entered.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: nothing that could set a flag is there.
    """
    found, seen = Found(), set[Path]()
    for root in given:
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist; give files or folders that do")
        for path in [root] if root.is_file() else _walk(root):
            real = path.resolve()
            if real not in seen:
                seen.add(real)
                _read(found, path, asked=path is root)
    if not found.files and not found.errors:
        raise ValueError("no Python, shell or YAML file in what was given; give the parser's file and the launchers")
    return found


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _SKIPPED and not (here / name / "pyvenv.cfg").exists()
        )
        yield from (here / name for name in sorted(files) if (here / name).is_file())


def _read(found: Found, path: Path, *, asked: bool) -> None:
    shown, suffix = path.as_posix(), path.suffix.lower()
    known = suffix in (*PYTHON, *SHELL, *YAML_FILES)
    if not known and suffix and not asked:
        return
    try:
        data = path.read_bytes()
        if not known and not _is_shell(data):
            if asked:
                found.errors[shown] = f"{shown}: neither Python, shell nor YAML by its name or first line"
            return
        text, encoding = decode_source(data) if suffix in PYTHON else (data.decode("utf-8"), "utf-8")
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        found.errors[shown] = f"{shown}: cannot be read: {' '.join(str(error).split())}"
        return
    kind = found.python if suffix in PYTHON else found.yaml if suffix in YAML_FILES else found.shell
    kind[shown] = SourceFile(shown, text, encoding)
    found.paths[shown], found.original[shown] = path, data


def _is_shell(data: bytes) -> bool:
    first = data[:200].split(b"\n", 1)[0]
    return first.startswith(b"#!") and b"sh" in first


def write_files(found: Found, texts: Mapping[str, str], *, allow_dirty: bool = False) -> None:
    """Write new texts over the files that were read, all of them or none.

    Raises:
        RefusedError: something stands in the way: a file changed meanwhile, is read-only or a link, or git could not
            bring it back; nothing was written.
    """
    files = {}
    for shown, text in texts.items():
        path = found.paths[shown]
        read = Read(path.absolute(), found.original[shown], path.is_symlink())
        files[shown] = (read, text.encode(found.files[shown].encoding))
    write_all(files, allow_dirty=allow_dirty)
