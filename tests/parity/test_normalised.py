from __future__ import annotations

import pytest

from parity.normalised import renamed, same_code

CODE = b'"""Doc."""\nimport torch\n\n\ndef f(x):\n    """What f does."""\n    return x + 1  # one\n'


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (CODE.replace(b"  # one", b""), "comments and formatting"),
        (CODE.replace(b"\n\n\ndef", b"\ndef").replace(b"x + 1", b"(x+1)"), "comments and formatting"),
        (CODE.replace(b"'", b'"').replace(b"    return", b"\n    return"), "comments and formatting"),
        (CODE.replace(b"What f does", b"Adds"), "comments, formatting and docstrings"),
        (CODE.replace(b'    """What f does."""\n', b""), "comments, formatting and docstrings"),
        (CODE.replace(b"+ 1", b"+ 1.0"), ""),
        (CODE.replace(b"x + 1", b"1 + x"), ""),
        (CODE.replace(b"return x", b"return y"), ""),
        (CODE + b'"""No docstring at the end."""\n', ""),
        (b"def f(:\n", ""),
        (b"\x00", ""),
    ],
)
def test_python_is_compared_by_its_syntax_tree(other: bytes, expected: str) -> None:
    """Comments and layout do not matter, docstrings are told apart, and anything else is a difference."""
    assert same_code("a.py", CODE, other) == expected


def test_a_docstring_is_all_that_a_function_has() -> None:
    """Without it, a function whose body is only that equals one that passes."""
    assert same_code("a.py", b'def f():\n    """Doc."""\n', b"def f():\n    pass\n").endswith("docstrings")


def test_unparsable_files_are_not_the_same() -> None:
    """Two files that both cannot be parsed say nothing about each other."""
    assert same_code("a.py", b"def f(:\n", b"def f(:\n\n") == ""
    assert same_code("a.yaml", b"a: [\n", b"a: [\n\n") == ""


@pytest.mark.parametrize(
    ("other", "same"),
    [(b"# lr\na:   1\nb: [1, 2]\n", True), (b"a: 1\nb:\n- 1\n- 2\n", True), (b"a: 1.0\nb: [1, 2]\n", False)],
)
def test_yaml_is_compared_by_its_values(other: bytes, same: bool) -> None:
    """1 and 1.0 are two values, as official code may treat them."""
    assert bool(same_code("a.yaml", b"a: 1\nb: [1, 2]\n", other)) is same


def test_a_packages_name_is_replaced_in_imports_alone() -> None:
    """And as the name of a logger; not in names that begin with it, nor in other text."""
    text = b"from fork.a import b\n    import fork as f\nfrom forked import c\nimport forks\nx = 'fork'\n"
    text += b"logging.getLogger('fork')\n"
    assert renamed(text, "fork") == (
        b"from dinov2.a import b\n    import dinov2 as f\nfrom forked import c\nimport forks\nx = 'fork'\n"
        b"logging.getLogger('dinov2')\n"
    )
    assert renamed(text, "dinov2") == text
