"""Loads the stack under test: one of the built-in ones, an adapter file, or an importable object."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from parity.adapters.port import PortStack
from parity.errors import SubjectError, origin
from parity.recipes import SMALL_ARCHITECTURES
from parity.reference.loader import PACKAGE
from parity.stack import CAPABILITIES, capabilities_of

__all__ = ["BUILT_IN", "open_subject"]

BUILT_IN: Mapping[str, str] = {
    "legacy": "migrations.legacy:LegacyStack",
    "document": "migrations.document:DocumentStack",
}
_FILE_MODULE = "parity_subject"
_RESERVED = (
    "is the reference here, which would be compared with itself; give your fork's package another name, or load it "
    "under one"
)


@contextmanager
def open_subject(spec: str) -> Iterator[Any]:
    """Give the stack that `--subject` names; modules that loading it imported from its folder are forgotten after.

    Args:
        spec: `port`, `legacy`, `document`, a path ending in `.py`, or `MODULE:ATTR`. In a file or module the
            stack is its attribute `stack` or, without one, the module itself. A class is instantiated.

    Raises:
        SubjectError: it is missing, raises on import, or offers no capability.
    """
    if spec == "port":
        yield PortStack(SMALL_ARCHITECTURES)
    elif spec in BUILT_IN:
        module, attribute = BUILT_IN[spec].split(":")
        yield getattr(importlib.import_module(module), attribute)(architectures=SMALL_ARCHITECTURES)
    elif spec.endswith(".py"):
        with _file(Path(spec)) as module_object:
            yield _stack(module_object, spec)
    elif ":" in spec:
        yield _attribute(spec)
    else:
        raise SubjectError(
            f"unknown subject {spec!r}, expected port, legacy, document, a FILE.py or MODULE:ATTR; "
            "`python -m parity list` shows them"
        )


@contextmanager
def _file(path: Path) -> Iterator[ModuleType]:
    """Import a file with its own folder on the path, as `python FILE.py` would."""
    if not path.is_file():
        raise SubjectError(f"subject {path} does not exist or is no file; give the path of an adapter file")
    spec = importlib.util.spec_from_file_location(_FILE_MODULE, path.resolve())
    if spec is None or spec.loader is None:
        raise SubjectError(f"subject {path} cannot be imported as Python; expected a .py file")
    module = importlib.util.module_from_spec(spec)
    before, folder = dict(sys.modules), str(path.resolve().parent)
    sys.modules[_FILE_MODULE] = module
    sys.path.insert(0, folder)
    try:
        with _official_hidden():
            _guarded(lambda: spec.loader.exec_module(module), str(path))
        _refuse_later_imports(module, str(path))
        yield module
    finally:
        sys.path.remove(folder) if folder in sys.path else None
        for name in [n for n, m in sys.modules.items() if n not in before and _lives_in(m, folder)]:
            del sys.modules[name]


class _OfficialRefused(MetaPathFinder):
    """Lets nothing called `dinov2` be imported: the name belongs to the reference while it is open."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        raise ImportError(f"{fullname} {_RESERVED}")


@contextmanager
def _official_hidden() -> Iterator[None]:
    """Keep the reference out of a subject that imports `dinov2`, as a fork that kept the name does."""
    taken = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == PACKAGE}
    finder = _OfficialRefused()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path[:] = [other for other in sys.meta_path if other is not finder]
        sys.modules.update(taken)


def _refuse_later_imports(module: ModuleType, spec: str) -> None:
    """Refuse an adapter whose functions import `dinov2` when called: they would be given the reference.

    Raises:
        SubjectError: it has such an import, with its line.
    """
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # no Python source to read
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        absolute = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in [alias.name for alias in node.names] if isinstance(node, ast.Import) else absolute:
            if name.partition(".")[0] == PACKAGE:
                raise SubjectError(f"subject {spec} imports {name} in line {node.lineno}; that {_RESERVED}")


def _lives_in(module: ModuleType, folder: str) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).resolve().is_relative_to(folder)


def _attribute(spec: str) -> Any:
    module_name, _, attribute = spec.partition(":")
    with _official_hidden():
        module = _guarded(lambda: importlib.import_module(module_name), spec)
    _refuse_later_imports(module, spec)
    if not attribute:
        return _stack(module, spec)
    if not hasattr(module, attribute):
        raise SubjectError(f"subject {spec}: module {module_name} has no attribute {attribute!r}")
    return _usable(getattr(module, attribute), spec)


def _stack(module: ModuleType, spec: str) -> Any:
    """The module's `stack`, or the module itself."""
    return _usable(getattr(module, "stack", module), spec)


def _usable(found: Any, spec: str) -> Any:
    """Instantiate a class, and refuse what offers nothing."""
    stack = _guarded(found, spec) if inspect.isclass(found) else found
    if not capabilities_of(stack):
        raise SubjectError(
            f"subject {spec} offers none of the capabilities {', '.join(CAPABILITIES)}; define at least one as a "
            "function (`python -m parity explain capabilities` gives their contracts)"
        )
    return stack


def _guarded(call: Any, spec: str) -> Any:
    """Run a user's code; whatever it raises becomes one clear line."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise SubjectError(f"subject {spec} raises {kind} when loaded: {error}{origin(error)}") from error
