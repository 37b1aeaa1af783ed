from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from parity.reference.isolation import (
    imported_modules,
    preserved_environment,
    preserved_import_path,
    preserved_logger,
    preserved_random_state,
    preserved_torch_settings,
    quiet_official_warnings,
)
from parity.reference.loader import VerifiedFinder


def _leave(context: AbstractContextManager[None], inside: Callable[[], object], *, by: bool) -> None:
    """Do something inside a context and leave it, normally or by an exception."""

    def inside_and_out() -> None:
        inside()
        if by:
            raise KeyError

    with contextlib.suppress(KeyError), context:
        inside_and_out()


by_exception = pytest.mark.parametrize("by", [False, True], ids=["normally", "by exception"])


@by_exception
def test_users_own_modules_come_back(tmp_path: Path, by: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's imported `dinov2` and `xformers` are out of the way inside and the same objects afterwards."""
    mine = {name: ModuleType(name) for name in ("dinov2", "dinov2.loss", "xformers", "dinov2_port")}
    for name, module in mine.items():
        monkeypatch.setitem(sys.modules, name, module)
    finder = VerifiedFinder(tmp_path, {"dinov2/__init__.py": b"", "dinov2/data.py": b""}, {})
    stand_in = ModuleType("xformers")
    path = list(sys.meta_path)

    def inside() -> None:
        assert "dinov2.loss" not in sys.modules
        assert sys.modules["xformers"] is stand_in
        assert importlib.import_module("dinov2.data").__file__ == str(tmp_path / "dinov2/data.py")
        assert sys.modules["dinov2_port"] is mine["dinov2_port"]
        sys.modules["xformers.late"] = ModuleType("xformers.late")

    _leave(imported_modules(finder, "dinov2", {"xformers": stand_in}), inside, by=by)
    assert {name: sys.modules[name] for name in mine} == mine
    assert "dinov2.data" not in sys.modules
    assert "xformers.late" not in sys.modules
    assert sys.meta_path == path


def test_finder_of_somebody_else_added_inside_stays(tmp_path: Path) -> None:
    """Only parity's own finder is removed from `sys.meta_path`."""
    other, ours = VerifiedFinder(tmp_path, {}, {}), VerifiedFinder(tmp_path, {}, {})
    with imported_modules(ours, "dinov2", {}):
        assert sys.meta_path[0] is ours
        sys.meta_path.insert(0, other)
    assert sys.meta_path[0] is other
    assert ours not in sys.meta_path
    sys.meta_path.remove(other)


@by_exception
def test_environment_comes_back(by: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed, changed, added and deleted variables are as before."""
    monkeypatch.setenv("XFORMERS_DISABLED", "1")
    monkeypatch.setenv("KEPT", "old")
    monkeypatch.setenv("DELETED", "old")
    monkeypatch.delenv("ADDED", raising=False)
    before = dict(os.environ)

    def inside() -> None:
        assert "XFORMERS_DISABLED" not in os.environ
        os.environ.update(KEPT="new", ADDED="new", XFORMERS_DISABLED="2")
        del os.environ["DELETED"]

    _leave(preserved_environment("XFORMERS_DISABLED"), inside, by=by)
    assert dict(os.environ) == before


@by_exception
def test_generators_come_back(by: bool) -> None:
    """The next numbers of `random`, numpy and torch are those that were due."""

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def inside() -> None:
        random.seed(9)
        np.random.seed(9)
        torch.manual_seed(9)
        draw()

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    due = draw()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    _leave(preserved_random_state(), inside, by=by)
    assert draw() == due


@by_exception
def test_logger_comes_back(by: bool, tmp_path: Path) -> None:
    """Level, handlers and flags are as before, and a log file opened inside is closed."""
    logger = logging.getLogger("dinov2")
    own = logging.NullHandler()
    logger.addHandler(own)
    before = (logger.level, logger.handlers[:], logger.propagate, logger.disabled)
    added = logging.FileHandler(tmp_path / "log.txt")

    def inside() -> None:
        logger.setLevel(logging.DEBUG)
        logger.propagate, logger.disabled = False, True
        logger.handlers[:] = [added]

    _leave(preserved_logger("dinov2"), inside, by=by)
    assert (logger.level, logger.handlers, logger.propagate, logger.disabled) == before
    assert added.stream is None
    logger.removeHandler(own)


@by_exception
def test_torch_settings_come_back(by: bool) -> None:
    """Threads, default dtype, gradient mode, determinism and TF32 are as before."""

    def state() -> list[object]:
        return [
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_deterministic_debug_mode(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.benchmark,
        ]

    def inside() -> None:
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cuda.matmul.allow_tf32 = not torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        assert not set(map(str, state())) >= set(map(str, before[:3]))

    before = state()
    _leave(preserved_torch_settings(), inside, by=by)
    assert state() == before


def test_known_official_warnings_are_quiet_and_others_are_not() -> None:
    """Only what official code is known to cause is ignored; a warning of the user's code still comes."""
    with quiet_official_warnings():
        warnings.warn_explicit("old name", FutureWarning, "koleo_loss.py", 43, module="dinov2.loss.koleo_loss")
        warnings.warn("`torch.nn.utils.weight_norm` is deprecated in favor", FutureWarning, stacklevel=1)
        warnings.warn("xFormers is available (Block)", UserWarning, stacklevel=1)
        warnings.warn("# of dropped samples: 3", UserWarning, stacklevel=1)
        with pytest.raises(FutureWarning):
            warnings.warn_explicit("old name", FutureWarning, "train.py", 1, module="mine")
        with pytest.raises(FutureWarning):
            warnings.warn_explicit("old name", FutureWarning, "x.py", 1, module="dinov2_port.loss")
        with pytest.raises(RuntimeWarning):
            warnings.warn_explicit("overflow", RuntimeWarning, "x.py", 1, module="dinov2.loss")


@by_exception
def test_warning_state_comes_back(by: bool) -> None:
    """Filters, `showwarning` and the logging module's own memory of it are as before."""
    filters, shown = list(warnings.filters), warnings.showwarning

    def inside() -> None:
        warnings.simplefilter("ignore")
        logging.captureWarnings(True)
        assert warnings.showwarning is not shown

    _leave(quiet_official_warnings(), inside, by=by)
    assert list(warnings.filters) == filters
    assert warnings.showwarning is shown
    logging.captureWarnings(True)
    assert warnings.showwarning is not shown
    logging.captureWarnings(False)
    assert warnings.showwarning is shown


@by_exception
def test_import_path_and_folder_come_back(by: bool, tmp_path: Path) -> None:
    """The working directory and the entries of `sys.path` are as before, in the same list."""
    folder, path, entries = Path.cwd(), sys.path, sys.path[:]

    def inside() -> None:
        os.chdir(tmp_path)
        sys.path.insert(0, str(tmp_path))

    _leave(preserved_import_path(), inside, by=by)
    assert Path.cwd() == folder
    assert sys.path is path
    assert sys.path == entries


@by_exception
def test_default_device_and_anomaly_mode_come_back(by: bool) -> None:
    """New tensors land on the device of before, and anomaly detection is off again."""

    def inside() -> None:
        torch.set_default_device("meta")
        torch.autograd.set_detect_anomaly(True, check_nan=False)
        assert torch.empty(1).device.type == "meta"

    before = torch.get_default_device(), torch.is_anomaly_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Anomaly Detection")
        _leave(preserved_torch_settings(), inside, by=by)
    assert (torch.get_default_device(), torch.is_anomaly_enabled()) == before
    assert torch.empty(1).device == before[0]
