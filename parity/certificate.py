"""What a certificate says of a tree and of each file in it, and the reading of that tree."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from parity.errors import UsageError

__all__ = ["Certificate", "FileState", "State", "read_tree"]

State = Literal["identical", "line endings", "package name", "formatting", "differs", "missing", "extra"]

_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})
_LARGEST = 2_000_000


@dataclass(frozen=True)
class FileState:
    """What is known of one file.

    Attributes:
        state: `identical` byte for byte; but for `line endings`; but for the `package name` in imports; but for
            `formatting`; `differs`; `missing` from the fork; `extra`, beside official's but none of them.
        path: in the fork, POSIX; empty where it is missing.
        official: official's path; empty for an extra file.
        since: first commit that has this content, in words; empty where none has.
        until: last commit that has it.
        note: in what it differs.
    """

    state: State
    path: str
    official: str
    since: str = ""
    until: str = ""
    note: str = ""


@dataclass(frozen=True)
class Certificate:
    """What was found in a tree.

    Attributes:
        root: the folder that was read.
        package: where official's `dinov2/` is in it, POSIX; `.` where the folder itself is it.
        nearest: the commit that most files are of, in words.
        one_commit: whether a single commit has every file that is official's.
        files: of official's training files and of extra ones, in official's order.
        others: number of further Python and YAML files, which are none of official's training code.
        compared_with: whose text decided about formatting; empty where none was at hand.
    """

    root: Path
    package: str
    nearest: str
    one_commit: bool
    files: tuple[FileState, ...]
    others: int
    compared_with: str = ""

    @cached_property
    def counts(self) -> Counter[str]:
        """Number of files by state."""
        return Counter(file.state for file in self.files)

    @property
    def exit_code(self) -> int:
        """0 every training file is official's, formatting aside, and of one commit; 1 something differs; 2 none is."""
        if not any(file.official and file.path for file in self.files):
            return 2
        needed = [f for f in self.files if f.state in ("differs", "missing") and not _is_recipe(f)]
        extra = [f for f in self.files if f.state == "extra"]
        return 1 if needed or extra or not self.one_commit else 0


def _is_recipe(file: FileState) -> bool:
    """Whether a file is missing that training does not import: PyPI's wheel lacks the recipes too."""
    return file.state == "missing" and file.official.startswith("dinov2/configs/train/")


def read_tree(root: Path) -> dict[str, bytes]:
    """Read every Python and YAML file below a folder, keyed by its POSIX path from there.

    Raises:
        UsageError: it is no folder, or something in it cannot be read.
    """
    if not root.is_dir():
        raise UsageError(f"{root} {'is no folder' if root.exists() else 'does not exist'}; give a folder of a fork")
    found: dict[str, bytes] = {}
    try:
        for folder, folders, names in os.walk(root, onerror=_fail):
            folders[:] = sorted(n for n in folders if n not in _SKIPPED and not n.startswith("."))
            for name in sorted(names):
                file = Path(folder, name)
                if name.endswith((".py", ".yaml")) and file.is_file() and file.stat().st_size <= _LARGEST:
                    found[file.relative_to(root).as_posix()] = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read ({error.strerror}); make it readable") from error
    return found


def _fail(error: OSError) -> None:
    raise error
