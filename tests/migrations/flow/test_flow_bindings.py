from __future__ import annotations

import libcst as cst
import pytest

from migrations.engine.source import SourceFile
from migrations.flow.bindings import Binding, bindings, reads, resolve


def names(scope: cst.FunctionDef | cst.Module) -> list[tuple[str, str]]:
    """Names and kinds of what a scope binds."""
    return [(binding.name, binding.kind) for binding in bindings(scope)]


def last_read(text: str) -> tuple[SourceFile, cst.Name]:
    """The file, and the last name in it called `x`."""
    file = SourceFile("a.py", text)
    assert file.error == ""
    return file, [name for name in file.nodes(cst.Name) if name.value == "x"][-1]


def values(text: str) -> list[str | None]:
    """What the last `x` of a text may have received."""
    file, name = last_read(text)
    return [None if one.value is None else file.code(one.value) for one in resolve(file, name)]


def test_every_way_to_bind() -> None:
    """Parameters, assignments, unpacking, loops, with, walrus; nested functions keep theirs."""
    file = SourceFile(
        "a.py",
        "def f(a, *b, c=1):\n"
        "    d = e = 1\n"
        "    (g, h), i = j\n"
        "    k: int = 2\n"
        "    m: int\n"
        "    n += 1\n"
        "    for o, p in q: pass\n"
        "    with r as s: pass\n"
        "    if (t := 1): pass\n"
        "    def nested(u): v = 1\n",
    )
    (function, _) = file.nodes(cst.FunctionDef)
    assert names(function) == [
        *(("a", "parameter"), ("b", "parameter"), ("c", "parameter")),
        *(("d", "assign"), ("e", "assign"), ("g", "unpack"), ("h", "unpack"), ("i", "unpack"), ("k", "assign")),
        *(("n", "augmented"), ("o", "loop"), ("p", "loop"), ("s", "with"), ("t", "assign")),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\nx = 2\nf(x)\n", ["2"]),
        ("x = 1\nif a:\n    x = 2\nf(x)\n", ["2", "1"]),
        ("x = 1\nif a:\n    x = 2\n    f(x)\n", ["2"]),
        ("x = 1\nif a:\n    x = 2\nelse:\n    f(x)\n", ["1"]),
        ("if a:\n    x = 1\nelif b:\n    x = 2\nelse:\n    x = 3\n    f(x)\n", ["3"]),
        ("x = 0\nif a:\n    x = 1\nelif b:\n    f(x)\n", ["0"]),
        ("if a:\n    x = 1\nelse:\n    x = 2\nf(x)\n", ["2", "1"]),
        ("if (x := a):\n    f(x)\n", ["a"]),
        ("for i in y:\n    if a:\n        x = i\n    else:\n        f(x)\n", ["i"]),
        ("x = 1\nx += 2\nf(x)\n", ["2", "1"]),
        ("for x in y:\n    f(x)\n", ["y"]),
        ("for i in y:\n    x = i\nf(x)\n", ["i"]),
        ("f(x)\nx = 1\n", []),
    ],
    ids=[
        "last",
        "perhaps",
        "surely inside",
        "other arm",
        "own arm",
        "an elif",
        "either arm",
        "the condition",
        "other arm, earlier round",
        "augmented",
        "loop",
        "behind a loop",
        "later",
    ],
)
def test_resolve_returns_what_may_have_been_received(text: str, expected: list[str]) -> None:
    """Up to the nearest binding that surely runs; what comes later does not count."""
    file = SourceFile("a.py", text)
    name = next(n for n in file.nodes(cst.Name) if n.value == "x" and isinstance(file.parent(n), cst.Arg))
    found = resolve(file, name)
    assert [file.code(one.value) for one in found if one.value is not None] == expected


def test_what_lambdas_and_classes_bind_is_theirs() -> None:
    """A lambda's parameter, also in a default, and a class's attribute are no names of the scope around."""
    file = SourceFile("a.py", "class C:\n    y = 1\ndef f(a=lambda q: q):\n    g = lambda r: r\n")
    (function,) = file.nodes(cst.FunctionDef)
    assert names(function) == [("a", "parameter"), ("g", "assign")]
    assert names(file.module) == []


def test_resolve_stays_in_its_function() -> None:
    """A parameter is a binding without a value; a module's name is not looked up from inside of a function."""
    assert values("x = 1\ndef f(x):\n    return x\n") == [None]
    assert values("def f(x=3):\n    return x\n") == ["3"]
    assert values("x = 1\ndef f():\n    return x\n") == []


def test_a_binding_on_the_line_of_a_semicolon() -> None:
    """`a = 1; x = 2` binds both."""
    assert values("a = 1; x = 2\nf(x)\n") == ["2"]


def test_reads_are_no_bindings() -> None:
    """Assigned names, attributes, keywords, parameters and definitions are no reads; nested functions read."""
    file = SourceFile(
        "a.py",
        "def g(x): pass\nx = 1\nx.y = 2\na.x = 3\nx[0] = 4\nf(x=5)\nfor x in x: pass\ndef h(): return x\nx += 1\n",
    )
    assert [file.line(name) for name in reads(file, file.module, "x")] == [3, 5, 7, 8, 9]


def test_a_binding_is_a_value_of_its_own() -> None:
    """Two assignments of the same text are two bindings."""
    file = SourceFile("a.py", "x = 1\nx = 1\n")
    first, second = bindings(file.module)
    assert isinstance(first, Binding)
    assert first.node is not second.node
