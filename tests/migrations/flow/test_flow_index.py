from __future__ import annotations

import libcst as cst
import pytest

from migrations.engine.project import Project
from migrations.flow.flags import flag_reads, flags
from migrations.flow.index import Index


def calls(project: Project, path: str) -> dict[str, str]:
    """What each call in a file means: `{text: path of the definition}`."""
    file, index = project.files[path], Index(project)
    found = {}
    for call in file.nodes(cst.Call):
        meant = index.called(file, call)
        found[file.code(call)] = f"{meant.file.path}:{meant.name}" if meant else ""
    return found


def test_a_name_with_one_definition_is_that_one() -> None:
    """Functions, methods and classes, wherever they are called."""
    project = Project.of_texts(
        {
            "a.py": "def f(): pass\nclass C:\n    def m(self): pass\n",
            "b.py": "import a\na.f()\nC()\nc.m()\nunknown()\n",
        }
    )
    assert calls(project, "b.py") == {"a.f()": "a.py:f", "C()": "a.py:C", "c.m()": "a.py:m", "unknown()": ""}


def test_the_callers_own_file_decides() -> None:
    """Two files define `f`: each calls its own, a third has no answer."""
    project = Project.of_texts(
        {"a.py": "def f(): pass\nf()\n", "b.py": "def f(): pass\nf()\n", "c.py": "f()\n", "d.py": "x.f()\n"}
    )
    assert [calls(project, name) for name in ("a.py", "b.py", "c.py", "d.py")] == [
        {"f()": "a.py:f"},
        {"f()": "b.py:f"},
        {"f()": ""},
        {"x.f()": ""},
    ]


def test_an_alias_is_followed() -> None:
    """`from a import f as g` makes `g` mean `f`, and its calls count as calls of `f`."""
    project = Project.of_texts({"a.py": "def f(): pass\n", "b.py": "from a import f as g\ng(1)\n"})
    assert calls(project, "b.py") == {"g(1)": "a.py:f"}
    index = Index(project)
    (definition,) = index.named("f")
    assert [(file.path, file.code(call)) for file, call in index.calls_of(definition)] == [("b.py", "g(1)")]


def test_the_owner_of_a_method_is_its_class() -> None:
    """A function inside of a method has none."""
    index = Index(Project.of_texts({"a.py": "class C:\n    def m(self):\n        def n(): pass\n"}))
    assert [index.named(name)[0].owner for name in ("C", "m", "n")] == ["", "C", ""]


def test_an_index_parses_only_what_is_asked_for() -> None:
    """Of a large project, files that neither define nor call a name stay unparsed."""
    project = Project.of_texts({"a.py": "def f(): pass\n", "b.py": "f = 1\n", "c.py": "x = (\n"})
    index = Index(project)
    assert [definition.file.path for definition in index.named("f")] == ["a.py"]
    assert [path for path, file in project.files.items() if file.looked_into] == ["a.py"]
    assert [file.path for file in index.files] == ["a.py", "b.py"]
    assert index.named("") == []


PARSER = (
    "p.add_argument('--mask-ratio', '-m', default=0.3, choices=['a', 'b'])\n"
    "p.add_argument('-x', dest='out')\n"
    "p.add_argument('input')\n"
    "p.add_argument('--computed', default=f())\n"
    "p.add_argument(name)\n"
)


def test_flags_have_the_names_of_their_attributes() -> None:
    """Dashes become underscores, `dest` goes first; a computed default is not known."""
    found = flags(Project.of_texts({"a.py": PARSER}))
    assert {name: (one[0].default, one[0].choices) for name, one in found.items()} == {
        "mask_ratio": (0.3, ("a", "b")),
        "out": (..., ()),
        "computed": (..., ()),
    }


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("f(args.lr)\n", [1]),
        ("f(getattr(args, 'lr'))\n", [1]),
        ("f(cfg['lr'])\n", [1]),
        ("args.lr = 1\n", []),
        ("f(lr)\nf(args.lr_end)\n", []),
    ],
    ids=["attribute", "getattr", "key", "written", "another"],
)
def test_reads_of_a_flag(text: str, lines: list[int]) -> None:
    """What reads it in any of three ways; an assignment does not."""
    found = flag_reads(Project.of_texts({"a.py": text}), "lr")
    assert [file.line(node) for file, node in found] == lines
