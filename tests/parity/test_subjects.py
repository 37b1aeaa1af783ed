from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.errors import SubjectError
from parity.stack import capabilities_of, stack_name
from parity.subjects import open_subject

LOSS = "def koleo_loss(student_output):\n    return 'mine'\n"

Written = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes an adapter file, and helper modules beside it; returns its path."""

    def write(text: str, **helpers: str) -> str:
        for name, content in helpers.items():
            (tmp_path / f"{name}.py").write_text(content)
        path = tmp_path / "adapter.py"
        path.write_text(text)
        return str(path)

    return write


def _refused(spec: str) -> str:
    with pytest.raises(SubjectError) as refused, open_subject(spec):
        pytest.fail("a subject was given")
    return str(refused.value)


def _koleo(spec: str) -> Any:
    with open_subject(spec) as stack:
        return stack.koleo_loss(None)


def test_a_module_is_a_stack(written: Written) -> None:
    """A file of functions needs no class and no import of parity."""
    with open_subject(written(LOSS)) as stack:
        assert capabilities_of(stack) == ("koleo_loss",)
        assert stack.koleo_loss(None) == "mine"


@pytest.mark.parametrize("value", ["Fork", "Fork()"], ids=["class", "instance"])
def test_the_attribute_stack_is_preferred(written: Written, value: str) -> None:
    """An instance is taken, a class is instantiated; the module's own functions are not."""
    method = "class Fork:\n    name = 'my fork'\n    def koleo_loss(self, x):\n        return type(self).__name__\n"
    with open_subject(written(f"{LOSS}{method}stack = {value}\n")) as stack:
        assert stack.koleo_loss(None) == "Fork"
        assert stack_name(stack) == "my fork"


def test_helpers_beside_the_file_are_imported_and_forgotten(written: Written) -> None:
    """The file's folder is on the path while it is open; afterwards path and modules are as before."""
    path, modules = list(sys.path), set(sys.modules)
    spec = written("from fork_helper import koleo_loss\n", fork_helper=LOSS)
    with open_subject(spec) as stack:
        assert stack.koleo_loss(None) == "mine"
        assert "fork_helper" in sys.modules
    assert sys.path == path
    assert set(sys.modules) == modules


def test_lazy_imports_work_while_the_subject_is_open(written: Written) -> None:
    """A capability may import a helper when it is first called."""
    late = "def koleo_loss(x):\n    import fork_late\n    return fork_late.koleo_loss(x)\n"
    assert _koleo(written(late, fork_late=LOSS)) == "mine"
    assert "fork_late" not in sys.modules


def test_two_subjects_do_not_share_helpers(tmp_path: Path) -> None:
    """Helpers of one name in two folders are two modules."""
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "fork_helper.py").write_text(f"def koleo_loss(x):\n    return {name!r}\n")
        (folder / "adapter.py").write_text("from fork_helper import koleo_loss\n")
        assert _koleo(str(folder / "adapter.py")) == name


def test_path_and_modules_are_restored_after_a_failure(written: Written) -> None:
    """Also where the import raises, and where the user of the subject does."""
    path, modules = list(sys.path), set(sys.modules)
    _refused(written("import fork_helper\n1 / 0\n", fork_helper=LOSS))
    with pytest.raises(KeyError), open_subject(written(LOSS)):
        raise KeyError("in the block")
    assert sys.path == path
    assert set(sys.modules) == modules


def test_dataclasses_and_annotations_work_in_a_file(written: Written) -> None:
    """`dataclass` looks its module up in sys.modules: the file must be there while it is executed."""
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Fork:\n    size: int = 3\n    def koleo_loss(self, x):\n        return self.size\n\n"
        "stack = Fork\n"
    )
    assert _koleo(written(text)) == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No such file, or a folder of that name."""
    assert f"{tmp_path / 'none.py'} does not exist or is no file" in _refused(str(tmp_path / "none.py"))
    (tmp_path / "folder.py").mkdir()
    assert "is no file" in _refused(str(tmp_path / "folder.py"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\nraise ValueError('no weights')\n", "raises ValueError when loaded: no weights at "),
        ("import sys\nsys.exit(3)\n", "raises SystemExit when loaded: 3 at "),
        ("def koleo_loss(:\n", "raises SyntaxError when loaded: "),
        ("import not_installed_anywhere\n", "raises ModuleNotFoundError when loaded: "),
        ("class stack:\n    def __init__(self, size):\n        pass\n", "raises TypeError when loaded: "),
    ],
)
def test_whatever_loading_raises_is_one_clear_line(written: Written, text: str, told: str) -> None:
    """The message has the file, the kind, the text and the line."""
    message = _refused(written(text))
    assert told in message
    assert "adapter.py" in message
    assert "\n" not in message


def test_the_line_that_raised_is_named(written: Written) -> None:
    """The innermost frame, not parity's own."""
    assert _refused(written("x = 1\n\nraise ValueError('no')\n")).endswith("adapter.py:3")


@pytest.mark.parametrize("text", ["", "x = 1\n", "stack = None\n", "class stack:\n    pass\n"])
def test_a_subject_without_capability_is_refused(written: Written, text: str) -> None:
    """Nothing to compare must not look like parity; the message lists what could be offered."""
    message = _refused(written(text))
    assert "offers none of the capabilities make_mask, " in message
    assert "parity explain capabilities" in message


def test_a_capability_that_cannot_be_called_is_refused(written: Written) -> None:
    """A number is no function."""
    assert "koleo_loss is a float, expected a callable" in _refused(written("koleo_loss = 0.5\n"))


def test_an_importable_object_is_a_subject(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """MODULE:ATTR takes an instance or a class, MODULE: the module."""
    text = f"{LOSS}class Fork:\n    def koleo_loss(self, x):\n        return 'class'\ninstance = Fork()\nempty = 3\n"
    spec = written("", fork_importable=text)
    monkeypatch.syspath_prepend(str(Path(spec).parent))
    monkeypatch.setitem(sys.modules, "fork_importable", None)
    monkeypatch.delitem(sys.modules, "fork_importable")
    assert _koleo("fork_importable:Fork") == "class"
    assert _koleo("fork_importable:instance") == "class"
    assert _koleo("fork_importable:") == "mine"
    assert "module fork_importable has no attribute 'Spoon'" in _refused("fork_importable:Spoon")
    assert "fork_importable:empty offers none" in _refused("fork_importable:empty")


def test_a_missing_module_is_named() -> None:
    """The import error is told, not raised."""
    message = _refused("not_installed_anywhere:stack")
    assert "subject not_installed_anywhere:stack raises ModuleNotFoundError" in message


def test_another_word_is_refused() -> None:
    """The four kinds of subject are named."""
    message = _refused("prot")
    assert "unknown subject 'prot', expected port, legacy, document, a FILE.py or MODULE:ATTR" in message


@pytest.mark.parametrize("name", ["port", "legacy", "document"])
def test_built_in_subjects_open_by_name(name: str) -> None:
    """Each is called by its name and offers something; only port claims official's operations."""
    with open_subject(name) as stack:
        assert stack_name(stack) == name
        assert "ibot_loss" in capabilities_of(stack)
        assert bool(getattr(stack, "claims_bitwise", False)) is (name == "port")
