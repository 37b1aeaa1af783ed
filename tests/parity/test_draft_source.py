from __future__ import annotations

import ast
from pathlib import Path

import pytest

from parity.draft.definitions import Definition, Project
from parity.draft.source import Module, read_modules
from parity.errors import UsageError


def _written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return folder


def _names(path: Path) -> dict[str, str]:
    """Dotted name by shown path."""
    return {module.shown: module.name for module in read_modules(path)[0]}


def _project(path: Path, search: list[str] | None = None) -> Project:
    return Project(read_modules(path)[0], search or [])


def _definition(project: Project, name: str) -> Definition:
    return next(d for d in project.definitions() if d.name == name)


def test_a_flat_layout_is_imported_from_the_folder_itself(tmp_path: Path) -> None:
    """As the document's fork: packages and modules beside each other, absolute imports between them."""
    files = {"losses/__init__.py": "", "losses/a.py": "", "utils.py": "", "training/b.py": "from utils import x\n"}
    assert _names(_written(tmp_path, files)) == {
        "losses/__init__.py": "losses",
        "losses/a.py": "losses.a",
        "training/b.py": "training.b",
        "utils.py": "utils",
    }


def test_a_package_is_imported_from_above_it(tmp_path: Path) -> None:
    """Also where the package's own folder is given."""
    _written(tmp_path, {"fork/__init__.py": "", "fork/loss/__init__.py": "", "fork/loss/a.py": ""})
    assert _names(tmp_path)["fork/loss/a.py"] == "fork.loss.a"
    assert _names(tmp_path / "fork")["loss/a.py"] == "fork.loss.a"
    assert {module.root for module in read_modules(tmp_path / "fork")[0]} == {tmp_path}


def test_the_forks_own_imports_tell_the_root(tmp_path: Path) -> None:
    """With `src/` on the path, `from losses.a import x` is found below it and nowhere else."""
    files = {"src/losses/a.py": "", "src/train.py": "from losses.a import x\nimport losses.a\n"}
    (module,) = (m for m in read_modules(_written(tmp_path, files))[0] if m.shown == "src/losses/a.py")
    assert (module.name, module.root) == ("losses.a", tmp_path / "src")


def test_names_that_python_cannot_import(tmp_path: Path) -> None:
    """A folder with a hyphen is a root, never part of a name; a file with one is read and offers nothing."""
    files = {"my-losses/a.py": "class A: ...\n", "train-it.py": "class B: ...\n", "class.py": "class C: ...\n"}
    project = _project(_written(tmp_path, files))
    assert {module.shown: module.name for module in project.modules}["my-losses/a.py"] == "a"
    assert [(d.name, d.module.name) for d in project.definitions()] == [("A", "a")]


def test_a_single_file_is_a_fork(tmp_path: Path) -> None:
    """It is named by itself, and imported from its folder."""
    (tmp_path / "fork.py").write_text("x = 1\n")
    ((module,), unreadable) = read_modules(tmp_path / "fork.py")
    assert (module.name, module.root, unreadable) == ("fork", tmp_path, [])


def test_what_is_no_part_of_a_fork_is_left_out(tmp_path: Path) -> None:
    """Tests, environments, hidden folders and caches hold other people's code, or fakes."""
    files = dict.fromkeys(("a.py", "tests/a.py", ".git/a.py", "env/lib/a.py", "env/pyvenv.cfg", "test_a.py"), "")
    assert list(_names(_written(tmp_path, files))) == ["a.py"]


def test_a_fork_below_a_folder_called_tests_is_read(tmp_path: Path) -> None:
    """Only folders inside the fork are judged by their names."""
    assert list(_names(_written(tmp_path / "tests" / "fork", {"a.py": ""}))) == ["a.py"]


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"def f(:\n", "line 1: "), (b"\xff\xfe\x00", ""), (b"# coding: no-such\n", "no-such"), (b"a = 1\x00\n", "")],
)
def test_an_unparsable_file_stops_nothing(tmp_path: Path, content: bytes, told: str) -> None:
    """It is listed with its reason; the others are read."""
    (tmp_path / "bad.py").write_bytes(content)
    (tmp_path / "good.py").write_text("x = 1\n")
    modules, unreadable = read_modules(tmp_path)
    assert [module.shown for module in modules] == ["good.py"]
    assert [file.shown for file in unreadable] == ["bad.py"]
    assert told in unreadable[0].reason


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    """A path that is missing, and one without Python; the message says what is expected."""
    with pytest.raises(UsageError, match="does not exist; give the folder of a fork"):
        read_modules(tmp_path / "none")
    (tmp_path / "readme.md").touch()
    with pytest.raises(UsageError, match="holds no Python file"):
        read_modules(tmp_path)
    with pytest.raises(UsageError, match="holds no Python file"):
        read_modules(tmp_path / "readme.md")


def test_a_fork_that_cannot_be_parsed_at_all_is_refused(tmp_path: Path) -> None:
    """A draft of nothing would look like a fork with nothing in it."""
    (tmp_path / "bad.py").write_text("print 'two'\n")
    with pytest.raises(UsageError, match=r"none of the 1 Python files .*bad\.py: line 1"):
        read_modules(tmp_path)


def test_inherited_methods_are_found_across_files(tmp_path: Path) -> None:
    """Nearest first: an overriding method hides the base's."""
    base = "class Base:\n    def __init__(self, width): ...\n    def f(self, a): ...\n    def g(self): ...\n"
    files = {"a.py": base, "b.py": "from a import Base as Old\nclass New(Old):\n    def f(self, b, c=1): ...\n"}
    new = _definition(_project(_written(tmp_path, files)), "New")
    assert set(new.methods()) == {"__init__", "f", "g"}
    assert [(p.name, p.required, p.default) for p in new.parameters("f") or ()] == [("b", True, ""), ("c", False, "1")]
    assert [p.name for p in new.parameters() or ()] == ["width"]
    assert new.parameters("h") is None


def test_keyword_only_and_positional_only_parameters(tmp_path: Path) -> None:
    """All are parameters of a call; `*args` and `**kwargs` are none."""
    text = "def f(a, /, b, *args, c, d=2, **kwargs): ...\n"
    found = _definition(_project(_written(tmp_path, {"a.py": text})), "f").parameters() or ()
    assert [(p.name, p.required, p.positional_only) for p in found] == [
        ("a", True, True),
        ("b", True, False),
        ("c", True, False),
        ("d", False, False),
    ]


def test_a_library_is_read_from_its_source(tmp_path: Path) -> None:
    """A class that a fork only imports is found, through the library's own re-exports, and nothing is imported."""
    library = {
        "lib/kit/__init__.py": "from .deep import *\n",
        "lib/kit/deep.py": "raise SystemExit('imported')\nclass Loss:\n    def forward(self, student, teacher): ...\n",
    }
    _written(tmp_path, {**library, "fork/losses.py": "from kit import Loss as Ours\n"})
    ours = _definition(_project(tmp_path / "fork", [str(tmp_path / "lib")]), "Ours")
    assert ours.where == "losses.py:1 (from kit.deep)"
    assert [p.name for p in ours.parameters("forward") or ()] == ["student", "teacher"]
    assert not _definition_names(_project(tmp_path / "fork"))


def _definition_names(project: Project) -> list[str]:
    return [d.name for d in project.definitions()]


def test_what_a_fork_passes_on_within_itself_is_found_once(tmp_path: Path) -> None:
    """A package's `__init__` that re-exports is no second definition."""
    files = {"fork/__init__.py": "from .a import Loss\n", "fork/a.py": "class Loss: ...\n"}
    found = [d for d in _project(_written(tmp_path, files)).definitions() if d.name == "Loss"]
    assert [d.module.name for d in found] == ["fork.a"]


def test_definitions_under_conditions_count(tmp_path: Path) -> None:
    """`try: import` and `if` at the top of a module are how forks choose."""
    text = "try:\n    import x\nexcept ImportError:\n    def f(): ...\nif True:\n    class C: ...\n"
    assert set(_definition_names(_project(_written(tmp_path, {"a.py": text})))) == {"f", "C"}


def test_circular_imports_end(tmp_path: Path) -> None:
    """Two modules that import a name from each other define it nowhere."""
    files = {"a.py": "from b import X\nclass Y(X): ...\n", "b.py": "from a import X\n"}
    assert _definition(_project(_written(tmp_path, files)), "Y").bases == ()


def test_names_of_a_module(tmp_path: Path) -> None:
    """What is bound at its top level: definitions, imports and assignments."""
    module = Module(
        tmp_path, "a", tmp_path, "a", ast.parse("import a.b\nfrom c import d as e\nx, y = 1, 2\nz: int = 3\n")
    )
    assert Project([module], []).names(module) == {"a", "e", "x", "y", "z"}
