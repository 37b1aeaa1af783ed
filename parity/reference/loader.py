"""Import `dinov2` from bytes that were verified, and from nowhere else.

The finder goes ahead of every other one, so that neither an installed `dinov2` nor one in the working
directory can be picked up, and it never falls through: a `dinov2` module that is not among the verified files
does not exist. No `.pyc` is read or written, since official folders may be read-only and a stale one would
not be what was verified. Tracebacks and `inspect.getsource` show the true path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = ["PACKAGE", "VerifiedFinder", "VerifiedLoader"]

PACKAGE = "dinov2"

Hook = Callable[[ModuleType], None]


class VerifiedLoader(SourceLoader):
    """Compiles one module from the bytes that it was given.

    Args:
        owner: the finder that provides the module.
        path: the module's file.
        data: its verified content.
        after: what to do to the module once it is executed.
    """

    def __init__(self, owner: object, path: Path, data: bytes, after: Hook | None = None) -> None:
        self.owner = owner
        self.path = str(path)
        self._data = data
        self._after = after

    def get_filename(self, fullname: str) -> str:
        """Return the true path, for tracebacks and `inspect`."""
        return self.path

    def get_data(self, path: str | bytes) -> bytes:
        """Return the module's verified source.

        Raises:
            OSError: another path is asked for, such as that of a `.pyc`.
        """
        if path != self.path:
            raise FileNotFoundError(f"{path!r} is not the verified source of this module, {self.path}")
        return self._data

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, then put substitutes into it where there are any."""
        super().exec_module(module)
        if self._after is not None:
            self._after(module)


class VerifiedFinder(MetaPathFinder):
    """Finds `dinov2` and its submodules among verified files.

    Args:
        root: folder that holds `dinov2/`.
        files: content by POSIX path from `root`; kept as an attribute.
        hooks: what to do to a module, by full name, once it is executed.
    """

    def __init__(self, root: Path, files: Mapping[str, bytes], hooks: Mapping[str, Hook]) -> None:
        self._root = root
        self.files = files
        self._hooks = hooks

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a verified module, or None for everything that is not `dinov2`.

        Raises:
            ModuleNotFoundError: `dinov2` has no such verified module.
        """
        if fullname.partition(".")[0] != PACKAGE:
            return None
        stem = fullname.replace(".", "/")
        for name, is_package in ((f"{stem}/__init__.py", True), (f"{stem}.py", False)):
            data = self.files.get(name)
            if data is not None:
                file = self._root / name
                loader = VerifiedLoader(self, file, data, self._hooks.get(fullname))
                folders = [str(file.parent)] if is_package else None
                return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=folders)
        raise ModuleNotFoundError(f"{fullname} is not among the verified training files of {self._root}", name=fullname)

    def loaded(self, module: ModuleType) -> bool:
        """Return whether this finder provided a module."""
        loader = getattr(module, "__loader__", None)
        return isinstance(loader, VerifiedLoader) and loader.owner is self
