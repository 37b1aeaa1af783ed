"""Loads the stack under test: one of the built-in ones, an adapter file, or an importable object."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from parity.adapters.port import FastPortStack, PortStack
from parity.errors import SubjectError, origin
from parity.guard import GuardedSubject, Namespace
from parity.own_randomness import own_randomness
from parity.recipes import SMALL_ARCHITECTURES
from parity.stack import CAPABILITIES, capabilities_of

__all__ = ["BUILT_IN", "open_subject"]

BUILT_IN: Mapping[str, str] = {
    "legacy": "migrations.legacy:LegacyStack",
    "document": "migrations.document:DocumentStack",
}
_FILE_MODULE = "parity_subject"
_OURS = frozenset({"parity", "port", "migrations", "bench"})
_INSTALLED = frozenset({"site-packages", "dist-packages"})


@contextmanager
def open_subject(spec: str) -> Iterator[Any]:
    """Give the stack that `--subject` names; modules that loading it imported from its folder are forgotten after.

    A user's stack comes guarded, see `parity.guard`: its own package may be called `dinov2`.

    Args:
        spec: `port`, `legacy`, `document`, a path ending in `.py`, or `MODULE:ATTR`. In a file or module the
            stack is its attribute `stack` or, without one, the module itself. A class is instantiated.

    Raises:
        SubjectError: it is missing, raises on import, offers no capability, or misspells `own_randomness`.
    """
    if spec == "port":
        yield PortStack(SMALL_ARCHITECTURES, {"kernels=fast": FastPortStack(SMALL_ARCHITECTURES)})
    elif spec in BUILT_IN:
        module, attribute = BUILT_IN[spec].split(":")
        yield getattr(importlib.import_module(module), attribute)(architectures=SMALL_ARCHITECTURES)
    elif spec.endswith(".py"):
        namespace = Namespace()
        with _file(Path(spec), namespace) as module_object:
            yield _stack(module_object, spec, namespace)
    elif ":" in spec:
        yield _attribute(spec, Namespace())
    else:
        raise SubjectError(
            f"unknown subject {spec!r}, expected port, legacy, document, a FILE.py or MODULE:ATTR; "
            "`python -m parity list` shows them"
        )


@contextmanager
def _file(path: Path, namespace: Namespace) -> Iterator[ModuleType]:
    """Import a file with its own folder on the path, as `python FILE.py` would."""
    if not path.is_file():
        raise SubjectError(f"subject {path} does not exist or is no file; give the path of an adapter file")
    spec = importlib.util.spec_from_file_location(_FILE_MODULE, path.resolve())
    if spec is None or spec.loader is None:
        raise SubjectError(f"subject {path} cannot be imported as Python; expected a .py file")
    module = importlib.util.module_from_spec(spec)
    before, folder, entries = dict(sys.modules), str(path.resolve().parent), list(sys.path)
    sys.modules[_FILE_MODULE] = module
    sys.path.insert(0, folder)
    try:
        with namespace.active():
            _guarded(lambda: spec.loader.exec_module(module), str(path))
        yield module
    finally:
        sys.path.remove(folder) if folder in sys.path else None
        added = [entry for entry in sys.path if entry not in entries]  # by the file itself, to reach its fork
        sys.path[:] = [entry for entry in sys.path if entry in entries]
        for name in [n for n, m in sys.modules.items() if n not in before and _lives_in(m, (folder, *added))]:
            del sys.modules[name]


def _lives_in(module: ModuleType, folders: Sequence[str]) -> bool:
    """Whether a module is the subject's: from one of these folders, but neither installed nor one of this project's."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or module.__name__.split(".")[0] in _OURS:
        return False
    place = Path(file).resolve()
    return not _INSTALLED & set(place.parts) and any(place.is_relative_to(Path(f).resolve()) for f in folders)


def _attribute(spec: str, namespace: Namespace) -> Any:
    module_name, _, attribute = spec.partition(":")
    with namespace.active():
        module = _guarded(lambda: importlib.import_module(module_name), spec)
    if not attribute:
        return _stack(module, spec, namespace)
    if not hasattr(module, attribute):
        raise SubjectError(f"subject {spec}: module {module_name} has no attribute {attribute!r}")
    return _usable(getattr(module, attribute), spec, namespace)


def _stack(module: ModuleType, spec: str, namespace: Namespace) -> GuardedSubject:
    """The module's `stack`, or the module itself."""
    return _usable(getattr(module, "stack", module), spec, namespace)


def _usable(found: Any, spec: str, namespace: Namespace) -> GuardedSubject:
    """Instantiate a class, and refuse what offers nothing."""
    if inspect.isclass(found):
        with namespace.active():
            found = _guarded(found, spec)
    stack = GuardedSubject(found, namespace)
    if not capabilities_of(stack):
        raise SubjectError(
            f"subject {spec} offers none of the capabilities {', '.join(CAPABILITIES)}; define at least one as a "
            "function (`python -m parity explain capabilities` gives their contracts)"
        )
    own_randomness(stack)  # a misspelt declaration would leave draws compared bit for bit
    return stack


def _guarded(call: Any, spec: str) -> Any:
    """Run a user's code; whatever it raises becomes one clear line."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise SubjectError(f"subject {spec} raises {kind} when loaded: {error}{origin(error)}") from error
