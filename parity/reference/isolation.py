"""Leave Python, torch and the environment as they were found.

Each context manager here keeps one kind of state; `open_reference` stacks them. None of them is safe against
other threads that change the same state meanwhile: it belongs to the process.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

__all__ = [
    "imported_modules",
    "preserved_environment",
    "preserved_import_path",
    "preserved_logger",
    "preserved_random_state",
    "preserved_torch_settings",
    "quiet_official_warnings",
]


@contextmanager
def imported_modules(finder: MetaPathFinder, package: str, replacements: dict[str, ModuleType]) -> Iterator[None]:
    """Import `package` through `finder`, and the packages of `replacements` from these, until the end.

    Modules of these packages that the user had imported before are put back, the same objects.
    """
    packages = {package, *(name.partition(".")[0] for name in replacements)}

    def taken() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] in packages]
        return {name: sys.modules.pop(name) for name in names}

    before = taken()
    sys.modules.update(replacements)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path[:] = [other for other in sys.meta_path if other is not finder]
        taken()
        sys.modules.update(before)


@contextmanager
def preserved_environment(*removed: str) -> Iterator[None]:
    """Remove environment variables, and put back every variable that is changed meanwhile."""
    before = dict(os.environ)
    for name in removed:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def preserved_import_path() -> Iterator[None]:
    """Put back the working directory and `sys.path`, which a subject's imports may move."""
    folder, path = Path.cwd(), sys.path[:]
    try:
        yield
    finally:
        sys.path[:] = path
        os.chdir(folder)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Put back the generators of `random`, numpy and torch (CUDA's too, where it is in use)."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    in_use: bool = torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if in_use else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def preserved_logger(name: str) -> Iterator[None]:
    """Put back a logger's level, handlers, filters and flags."""
    logger = logging.getLogger(name)
    before = (logger.level, logger.handlers[:], logger.filters[:], logger.propagate, logger.disabled)
    try:
        yield
    finally:
        level, handlers, filters, logger.propagate, logger.disabled = before
        logger.setLevel(level)
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.handlers[:], logger.filters[:] = handlers, filters


@contextmanager
def quiet_official_warnings() -> Iterator[None]:
    """Ignore what official code is known to cause, and put back the filters and `showwarning`."""
    with warnings.catch_warnings():
        # Old names that official code uses. Torch blames itself for the first (dinov2/layers/dino_head.py:27),
        # and official code for the others, such as torch.cuda.amp.autocast (dinov2/loss/koleo_loss.py:43).
        warnings.filterwarnings("ignore", message=".*nn.utils.weight_norm", category=FutureWarning)
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"dinov2(\.|$)")
        for message in (
            "xFormers is",  # dinov2/layers/attention.py:27 and its like
            "# of dropped samples",  # dinov2/data/samplers.py:132
            ".*GradScaler is enabled, but CUDA is not available",
            "Please use the new API settings to control TF32",  # dinov2/train/train.py:26
        ):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        shown = warnings.showwarning
        try:
            yield
        finally:
            # Official setup_logging captures warnings (dinov2/logging/__init__.py:101); logging must forget
            # it too, else it never captures again.
            if warnings.showwarning is not shown:
                logging.captureWarnings(False)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
)
_FLAGS: tuple[tuple[Any, str], ...] = (
    (torch.backends.cuda.matmul, "allow_tf32"),  # set by dinov2/train/train.py:26 on import
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "deterministic"),
)


@contextmanager
def preserved_torch_settings() -> Iterator[None]:
    """Put back thread count, default dtype and device, gradient modes and the backend flags that official code sets."""
    settings = [(read(), read, write) for read, write in _SETTINGS]
    flags = [(owner, name, getattr(owner, name)) for owner, name in _FLAGS]
    try:
        yield
    finally:
        for value, read, write in settings:
            if read() != value:
                write(value)
        for owner, name, value in flags:
            if getattr(owner, name) != value:
                setattr(owner, name, value)
