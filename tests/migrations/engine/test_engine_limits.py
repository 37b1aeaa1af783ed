from __future__ import annotations

import pytest

from migrations.engine.limits import MAX_BRACKETS, MAX_CHAIN, too_deep


def nested(depth: int) -> bytes:
    """A literal of nested lists."""
    return b"x = " + b"[" * depth + b"]" * depth + b"\n"


def test_brackets_as_many_as_python_allows() -> None:
    """200 pass and 201 do not; the line is named."""
    assert too_deep(nested(MAX_BRACKETS)) == ""
    assert too_deep(b"\n\n" + nested(MAX_BRACKETS + 1)) == "line 3: more than 200 nested brackets"


@pytest.mark.parametrize("link", [b"+ 1 ", b".a", b"()", b"[0]", b"and b ", b"if c else d ", b"< 2 ", b"** 3 "])
def test_chains(link: bytes) -> None:
    """Operators, attributes, calls, subscripts and conditions in a row are counted, each once."""
    assert too_deep(b"x = a " + link * (MAX_CHAIN - 1)) == ""
    assert "in a row" in too_deep(b"x = a " + link * (MAX_CHAIN + 1))


def test_prefix_operators_are_chains() -> None:
    """`not not …` and `lambda: lambda: …` nest as deeply as brackets."""
    assert "in a row" in too_deep(b"x = " + b"not " * 600 + b"1")
    assert "in a row" in too_deep(b"x = " + b"lambda:" * 600 + b"1")


@pytest.mark.parametrize(
    "text",
    [
        b"x = [" + b"a.b + 1, " * 5000 + b"]\n",
        b"x = a.b + 1\n" * 5000,
        b"a.b(); " * 5000,
        b"# " + b"(" * 5000 + b"\n",
        b"x = '" + b"((((" * 500 + b"'\n",
        b'x = """' + b"[[[[\n" * 500 + b'"""\n',
        b"x = 'it''s (' '(((' \"'((\"\n" * 100,
        b"if a:\n  b\nelif c:\n  d\n" * 1000,
    ],
    ids=["list", "lines", "semicolons", "comment", "string", "docstring", "quotes", "ifs"],
)
def test_long_files_are_not_deep_ones(text: bytes) -> None:
    """Elements, lines and statements begin anew; what stands in strings and comments is no code."""
    assert too_deep(text) == ""


def test_elifs_of_one_if() -> None:
    """Each `elif` nests in the one before it; those of another indentation are another `if`'s."""
    many = b"if a:\n  b\n" + b"elif c:\n  d\n" * (MAX_CHAIN + 1)
    assert too_deep(many) == f"line {3 + 2 * MAX_CHAIN}: more than {MAX_CHAIN} elif of one if"


def test_backslashes_and_open_quotes_end() -> None:
    """A text that is no Python is looked through in linear time and left to the parser."""
    assert too_deep(b"x = 'never closed\n" * 200) == ""
    assert too_deep(b"\\" * 10_000 + b"'" * 10_001) == ""
