"""Keeps a user's stack from disturbing what it is compared with, and gives it its own `dinov2`.

Most forks kept the package name `dinov2`, which belongs to the reference while it is open. A guarded subject has a
namespace of its own: its `dinov2*` modules stand in `sys.modules` while it is loaded and during each call, the
reference's at any other time.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from parity.errors import SubjectError, origin
from parity.reference.loader import PACKAGE, VerifiedFinder
from parity.stack import CAPABILITIES, stack_name

__all__ = ["GuardedSubject", "Namespace"]


class Namespace:
    """The modules called `dinov2` of one side."""

    def __init__(self) -> None:
        self._own: dict[str, ModuleType] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Put these modules, and the ordinary import of others, in the place of the reference's."""
        finders = [(i, f) for i, f in enumerate(sys.meta_path) if isinstance(f, VerifiedFinder)]
        theirs = _taken()
        sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, VerifiedFinder)]
        sys.modules.update(self._own)
        try:
            yield
        finally:
            self._own = _taken()
            sys.modules.update(theirs)
            for place, finder in finders:
                sys.meta_path.insert(place, finder)


def _taken() -> dict[str, ModuleType]:
    """Take every module of the package out of `sys.modules`."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == PACKAGE}


class GuardedSubject:
    """A stack whose capabilities get copies of configurations and lists, run in its namespace and return something."""

    def __init__(self, stack: object, namespace: Namespace) -> None:
        self._stack = stack
        self._namespace = namespace
        self.name = stack_name(stack)

    def __getattr__(self, name: str) -> Any:
        """Return the stack's attribute; a capability comes guarded.

        Raises:
            AttributeError: the stack has none.
            SubjectError: looking it up raises something else.
        """
        try:
            found = getattr(self._stack, name)
        except AttributeError:
            raise
        except Exception as error:
            raise SubjectError(f"{self.name}.{name} raises {type(error).__name__}: {error}{origin(error)}") from error
        return self._guarded(name, found) if name in CAPABILITIES and callable(found) else found

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def guarded(*args: Any) -> Any:
            with self._namespace.active():
                try:
                    result = call(*(_copied(argument) for argument in args))
                except (Exception, SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    raise SubjectError(f"{name} raises {type(error).__name__}: {error}{origin(error)}") from error
            if inspect.iscoroutine(result):
                result.close()
            if result is None or inspect.iscoroutine(result):
                kind = type(result).__name__
                raise SubjectError(f"{name} returned {kind}, expected {CAPABILITIES[name].returns}")
            return result

        return guarded


def _copied(argument: Any) -> Any:
    """Copy what both sides are given and a subject might change: configurations and lists."""
    if isinstance(argument, DictConfig):
        # A seventh of the time of its own `copy`, which a check that asks for hundreds of images would notice.
        return pickle.loads(pickle.dumps(argument))  # noqa: S301 - our own bytes
    return argument.copy() if isinstance(argument, list) else argument
