"""The Python files of a project, as they are on the disk or as edits would leave them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType

from migrations.engine.edits import apply_edits
from migrations.engine.model import Edit
from migrations.engine.source import SourceFile

__all__ = ["Project"]


class Project:
    """Files by path, never changed: edits make a new project that shares the files they do not touch.

    Attributes:
        files: by path relative to the project's root, sorted.
        texts: launchers, YAML and the like by path: they set flags too, and are read, never edited.
        watch: is told the path of each file that is about to be looked into, where it is set.
    """

    watch: Callable[[str], None] | None = None

    def __init__(self, files: Iterable[SourceFile], texts: Mapping[str, str] = MappingProxyType({})) -> None:
        self.files: Mapping[str, SourceFile] = {file.path: file for file in sorted(files, key=lambda file: file.path)}
        self.texts: Mapping[str, str] = dict(sorted(texts.items()))

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> Project:
        """Make a project of texts by path, for tests and for code that is not on a disk."""
        code = [SourceFile(path, text) for path, text in texts.items() if path.endswith(".py")]
        return cls(code, {path: text for path, text in texts.items() if not path.endswith(".py")})

    @cached_property
    def errors(self) -> dict[str, str]:
        """Why files that were asked for could not be parsed, by path; grows as files are asked for."""
        return {}

    def matching(
        self, *patterns: re.Pattern[bytes], wanted: Callable[[SourceFile], bool] | None = None
    ) -> Iterator[SourceFile]:
        """Yield the files whose bytes match every pattern and that can be parsed; others are not parsed.

        Args:
            patterns: all of which must match.
            wanted: a further question, of files that match, which is answered without the tree.
        """
        for file in self.files.values():
            if all(file.matches(pattern) for pattern in patterns) and (wanted is None or wanted(file)):
                if self.watch is not None:
                    self.watch(file.path)
                if file.error:
                    self.errors[file.path] = file.error
                else:
                    yield file

    def with_edits(self, edits: Iterable[Edit]) -> Project:
        """Return the project that edits would leave.

        Raises:
            OverlapError: two edits touch the same bytes.
            ValueError: an edit fits no file, or its result is not Python.
        """
        by_path: dict[str, list[Edit]] = {}
        for edit in edits:
            by_path.setdefault(edit.path, []).append(edit)
        if strays := set(by_path) - set(self.files):
            raise ValueError(f"edits of {', '.join(sorted(strays))}, which the project does not hold")
        files = dict(self.files)
        for path, its in by_path.items():
            old = self.files[path]
            new = SourceFile(path, apply_edits(old, its), old.encoding)
            if new.error:
                raise ValueError(f"the edits would leave {new.error}; nothing was changed")
            files[path] = new
        return Project(files.values(), self.texts)
