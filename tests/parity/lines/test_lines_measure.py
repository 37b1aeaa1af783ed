from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from parity.adapters.official import OfficialStack
from parity.errors import NoVerdictError
from parity.lines.measure import FILES, executed, owner_of, spans

_META = '''\
"""A docstring is no statement."""
import math


def used(x):
    if x > 0:  # pragma: no cover
        return math.sqrt(
            x
        )
    return 0.0


class Unused:
    def method(self):
        def inner():
            return 1

        return inner()
'''


@pytest.fixture
def official_folder(tmp_path: Path) -> Path:
    """A folder as official's, with two of its files."""
    for name, source in (("train/ssl_meta_arch.py", _META), ("loss/koleo_loss.py", "A = 1\nB = 2\n")):
        path = tmp_path / "dinov2" / name
        path.parent.mkdir(parents=True)
        path.write_text(source)
    return tmp_path


def _used(folder: Path, value: float) -> float:
    path = folder / "dinov2" / "train" / "ssl_meta_arch.py"
    spec = importlib.util.spec_from_file_location("lines_of_a_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return float(module.used(value))


def test_statements_that_ran_and_statements_that_did_not(official_folder: Path) -> None:
    """By hand: 9 statements without the docstring, of which the last return, and two bodies of functions, are left.

    A remark that tells coverage to overlook a line hides nothing, and a statement of three lines counts once.
    """
    result, files = executed(lambda: _used(official_folder, 4.0))
    assert result == 2.0
    meta, _ = sorted(files, key=lambda file: file.name, reverse=True)
    assert meta.name == "train/ssl_meta_arch.py"
    assert meta.statements == (2, 5, 6, 7, 10, 13, 14, 15, 16, 18)
    assert meta.left == (10, 15, 16, 18)
    assert meta.executed == 6


def test_a_file_that_was_never_imported_counts(official_folder: Path) -> None:
    """None of its statements was executed."""
    _, files = executed(lambda: _used(official_folder, 4.0))
    (koleo,) = (file for file in files if file.name == "loss/koleo_loss.py")
    assert (koleo.statements, koleo.left, koleo.executed) == ((1, 2), (1, 2), 0)


def test_nothing_is_measured_after_it(official_folder: Path) -> None:
    """The process traces as before, also after work that raises."""
    before = sys.gettrace()

    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        executed(fails)
    assert sys.gettrace() is before


def test_without_official_code_there_is_no_verdict() -> None:
    """The error says what was found and what is expected."""
    with pytest.raises(NoVerdictError, match="these folders: none; expected exactly one"):
        executed(lambda: None)


def test_two_official_folders_give_no_verdict(official_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Their lines would be mixed up; both are named."""
    other = tmp_path_factory.mktemp("other")
    (other / "dinov2" / "train").mkdir(parents=True)
    (other / "dinov2" / "train" / "ssl_meta_arch.py").write_text(_META)
    with pytest.raises(NoVerdictError, match=r"dinov2, .*dinov2; expected exactly one"):
        executed(lambda: [_used(folder, 1.0) for folder in (official_folder, other)])


def test_a_loss_executes_its_lines_of_official_code(official_stack: OfficialStack) -> None:
    """Of official KoLeo exactly the functions that a call executes, and all of `forward`."""
    import torch

    def work() -> None:
        # Imported afresh, as a run does, so that the file that says where official code lies is executed too.
        path = official_stack.root / "dinov2" / "train" / "ssl_meta_arch.py"
        exec(compile("1", str(path), "exec"), {})  # noqa: S102 (nothing but a number)
        official_stack.koleo_loss(torch.randn(4, 8))

    _, files = executed(work)
    (koleo,) = (file for file in files if file.name == "loss/koleo_loss.py")
    ran = set(koleo.statements) - set(koleo.left)
    imported = {"", "KoLeoLoss"}  # unless an earlier test has imported the module
    assert {owner_of(koleo.source, line) for line in ran} - imported == {
        "KoLeoLoss.__init__",
        "KoLeoLoss.forward",
        "KoLeoLoss.pairwise_NNs_inner",
    }
    assert not [line for line in koleo.left if owner_of(koleo.source, line) == "KoLeoLoss.forward"]


def test_every_pattern_names_official_files(official_stack: OfficialStack) -> None:
    """A file that is renamed would otherwise be left out without a word."""
    for pattern in FILES:
        assert list((official_stack.root / "dinov2").glob(pattern)), pattern


@pytest.mark.parametrize(
    ("line", "owner"),
    [(2, ""), (5, ""), (7, "used"), (10, "used"), (14, "Unused"), (15, "Unused.method"), (16, "Unused.method.inner")],
)
def test_the_owner_is_the_innermost_definition_around_a_line(line: int, owner: str) -> None:
    """A definition's own first line belongs to what is around it."""
    assert owner_of(_META, line) == owner


def test_spans_join_neighbours() -> None:
    """In order, whatever the order given."""
    assert spans([9, 3, 4, 5, 7]) == "3-5, 7, 9"
    assert spans([]) == ""
