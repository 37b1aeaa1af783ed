from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from parity.reference.isolation import imported_modules
from parity.reference.loader import VerifiedFinder, VerifiedLoader

FILES = {
    "dinov2/__init__.py": b"here = 'verified'\n",
    "dinov2/loss/__init__.py": b"from .terms import scale\n",
    "dinov2/loss/terms.py": b"def scale(x):\n    return x / 0\n",
    "dinov2/configs/base.yaml": b"a: 1\n",
}


@pytest.fixture
def finder(tmp_path: Path) -> Iterator[VerifiedFinder]:
    """A finder of a small package, whose files also lie on disk, in place for one test."""
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    finder = VerifiedFinder(tmp_path, FILES, {})
    with imported_modules(finder, "dinov2", {}):
        yield finder


def test_modules_come_from_the_verified_bytes(finder: VerifiedFinder, tmp_path: Path) -> None:
    """What was read is what is compiled, even if the file on disk changes afterwards."""
    (tmp_path / "dinov2/__init__.py").write_text("here = 'changed later'\n")
    module = importlib.import_module("dinov2")
    assert module.here == "verified"
    assert module.__file__ == str(tmp_path / "dinov2/__init__.py")
    assert finder.loaded(module)


def test_nothing_is_compiled_to_disk_and_no_stale_byte_code_is_read(finder: VerifiedFinder, tmp_path: Path) -> None:
    """Importing leaves no `__pycache__`, and the loader answers for no file but its source."""
    importlib.import_module("dinov2.loss.terms")
    assert not list(tmp_path.rglob("__pycache__"))
    loader = VerifiedLoader(finder, tmp_path / "x.py", b"x = 1\n")
    assert loader.get_data(str(tmp_path / "x.py")) == b"x = 1\n"
    with pytest.raises(OSError, match="is not the verified source"):
        loader.get_data(str(tmp_path / "__pycache__" / "x.pyc"))
    with pytest.raises(OSError):  # noqa: PT011 - raised by the standard library, without a message
        loader.path_stats(str(tmp_path / "x.py"))


@pytest.mark.usefixtures("finder")
def test_tracebacks_and_source_show_the_true_path(tmp_path: Path) -> None:
    """A traceback and `inspect.getsource` lead to the file and line of the code."""
    terms = importlib.import_module("dinov2.loss.terms")
    assert inspect.getsource(terms.scale) == "def scale(x):\n    return x / 0\n"
    with pytest.raises(ZeroDivisionError) as caught:
        terms.scale(1)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == (str(tmp_path / "dinov2/loss/terms.py"), 2, "return x / 0")


@pytest.mark.usefixtures("finder")
def test_module_outside_the_verified_files_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `dinov2` module elsewhere on the path is not picked up, not even for a missing submodule."""
    other = tmp_path / "elsewhere"
    (other / "dinov2").mkdir(parents=True)
    for name in ("__init__", "extra"):
        (other / "dinov2" / f"{name}.py").write_text("here = 'elsewhere'\n")
    monkeypatch.syspath_prepend(str(other))
    assert importlib.import_module("dinov2").here == "verified"
    for name in ("dinov2.extra", "dinov2.configs", "dinov2.configs.base"):
        with pytest.raises(ModuleNotFoundError) as caught:
            importlib.import_module(name)
        assert caught.value.name in ("dinov2.extra", "dinov2.configs")


def test_other_packages_are_left_to_others(finder: VerifiedFinder) -> None:
    """Names that only begin with `dinov2` are no business of the finder."""
    assert finder.find_spec("dinov2_port", None) is None
    assert finder.find_spec("torch", None) is None
    assert not finder.loaded(ModuleType("dinov2"))


def test_hook_runs_once_the_module_is_executed(tmp_path: Path) -> None:
    """A hook can replace what a module imported, before anybody else sees it."""

    def double(module: ModuleType) -> None:
        vars(module)["scale"] = lambda x: 2 * x

    with imported_modules(VerifiedFinder(tmp_path, FILES, {"dinov2.loss": double}), "dinov2", {}):
        loss = importlib.import_module("dinov2.loss")
        assert loss.scale(3) == 6
        with pytest.raises(ZeroDivisionError):
            sys.modules["dinov2.loss.terms"].scale(3)


def test_two_finders_tell_their_modules_apart(finder: VerifiedFinder, tmp_path: Path) -> None:
    """A module belongs to the finder that provided it, not to another one of the same files."""
    outer = importlib.import_module("dinov2")
    inner_finder = VerifiedFinder(tmp_path, FILES, {})
    with imported_modules(inner_finder, "dinov2", {}):
        inner = importlib.import_module("dinov2")
        assert inner_finder.loaded(inner)
        assert not finder.loaded(inner)
    assert importlib.import_module("dinov2") is outer
