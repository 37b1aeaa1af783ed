from __future__ import annotations

import libcst as cst
import pytest

from migrations.engine.model import Site
from migrations.engine.source import SourceFile, decode_source

NESTED = """\
@decorator(1)
def outer(a):
    if a:
        x = {"k": [f(b), g(c)]}; y = 2
    return x  # comment
"""


def test_byte_order_mark_is_no_text_and_is_kept_as_encoding() -> None:
    """A file with a mark is written with one again, and its offsets count from behind it."""
    text, encoding = decode_source(b"\xef\xbb\xbfx = 1\r\n")
    assert (text, encoding) == ("x = 1\r\n", "utf-8-sig")
    assert text.encode(encoding) == b"\xef\xbb\xbfx = 1\r\n"


def test_declared_encoding_is_used() -> None:
    """0xE9 is é in Latin-1; offsets are of the UTF-8 text, where it takes two bytes."""
    data = b"# -*- coding: latin-1 -*-\nname = '\xe9'; f()\n"
    text, encoding = decode_source(data)
    file = SourceFile("a.py", text, encoding)
    (call,) = file.nodes(cst.Call)
    assert text.encode(encoding) == data
    assert file.code(call) == "f()"
    assert file.site(call) == Site("a.py", 2, 13, 2)


def test_bytes_of_another_encoding_are_an_error() -> None:
    """Without a declaration a file is UTF-8; 0xE9 alone is not, in the first lines or further down."""
    with pytest.raises(SyntaxError, match="encoding declaration"):
        decode_source(b"x = '\xe9'\n")
    with pytest.raises(UnicodeDecodeError):
        decode_source(b"\n" * 3 + b"x = '\xe9'\n")


def test_unknown_encoding_is_an_error() -> None:
    """Python refuses such a file in the same way."""
    with pytest.raises(SyntaxError, match="unknown encoding"):
        decode_source(b"# coding: no-such-thing\n")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_counted_for_every_line_end(end: str) -> None:
    """A blank line counts, whichever end it has."""
    file = SourceFile("a.py", end.join(["a = 1", "", "f(2)", ""]))
    assert file.error == ""
    assert file.site(file.nodes(cst.Call)[0]) == Site("a.py", 3, 1, 3)
    assert file.newline == end


def test_mixed_line_ends_keep_their_places() -> None:
    """Lines are counted across LF and CRLF, and spans hit the text."""
    file = SourceFile("a.py", "a = 1\r\nb = 2\nf(3)\r\ng(4)")
    assert [(file.code(call), file.line(call)) for call in file.nodes(cst.Call)] == [("f(3)", 3), ("g(4)", 4)]


def test_line_spans_cover_the_text_without_gaps() -> None:
    """Each line begins where the one before ends; the last may lack its line end."""
    file = SourceFile("a.py", "a = 1\r\nbb = 2\nc")
    assert [file.line_span(line) for line in (1, 2, 3)] == [(0, 7), (7, 14), (14, 15)]


def test_columns_are_characters() -> None:
    """é and 漢 are one column each, though two and three bytes."""
    file = SourceFile("a.py", "é = '漢'; f()\n")
    assert file.site(file.nodes(cst.Call)[0]).column == 10


def test_nodes_are_of_exactly_a_class_in_the_order_of_the_text() -> None:
    """The inner call of `f(g())` ends first but begins later."""
    file = SourceFile("a.py", "f(g())\nh()\n")
    assert [file.code(call) for call in file.nodes(cst.Call)] == ["f(g())", "g()", "h()"]
    assert file.nodes(cst.ClassDef) == []


def test_ancestors_statement_and_function() -> None:
    """A call in a dict in a line with a semicolon is part of that line, in that function."""
    file = SourceFile("a.py", NESTED)
    call = next(call for call in file.nodes(cst.Call) if file.code(call) == "g(c)")
    statement = file.statement(call)
    function = file.function(call)
    assert statement is not None
    assert file.code(statement) == 'x = {"k": [f(b), g(c)]}; y = 2'
    assert function is not None
    assert function.name.value == "outer"
    assert file.ancestors(call)[-1] is file.module
    assert file.parent(file.module) is None


def test_a_definition_begins_at_def() -> None:
    """As LibCST has it: decorators stand above the site; its last line is the function's."""
    file = SourceFile("a.py", NESTED)
    (function,) = file.nodes(cst.FunctionDef)
    assert file.code(function).startswith("def outer(a):")
    assert file.site(function) == Site("a.py", 2, 1, 5)


def test_what_is_not_python_is_an_error_with_its_line() -> None:
    """The message names file and line, so that an editor finds it."""
    error = SourceFile("b/a.py", "x = 1\ny = (\n").error
    assert error.startswith("b/a.py:")
    assert "\n" not in error


@pytest.mark.parametrize(
    "text", ["", "\n", "# only a comment", "x = 1\n\x0c\ny = 2\n", "x = 1 \\\n  + 2\n", "if a:\n\tb\n"]
)
def test_every_text_is_reproduced(text: str) -> None:
    """An empty file, no last line end, form feeds, continued lines and tabs are no errors."""
    assert SourceFile("a.py", text).error == ""


@pytest.mark.parametrize("text", ["a = 1\rf(2)\r", "x = 1\n\x0cdef f():\n    pass\n"])
def test_a_text_that_libcst_does_not_reproduce_is_an_error(text: str) -> None:
    """Spans of such a tree would point at the wrong bytes: CR alone at the end, a form feed before code."""
    assert "loses bytes" in SourceFile("a.py", text).error


def test_what_libcsts_nodes_refuse_is_an_error() -> None:
    """Bytes beside a string are refused by a check of the node, not by the parser."""
    assert "CSTValidationError" in SourceFile("a.py", "x = 'a' b'c'\n").error


@pytest.mark.parametrize(
    "text",
    ["x = " + "(" * 20_000 + ")" * 20_000, "x = " + "1 + " * 50_000 + "1", "x = " + "not " * 50_000 + "1"],
    ids=["brackets", "sum", "not"],
)
def test_what_would_crash_the_native_parser_is_an_error(text: str) -> None:
    """LibCST ends the process, or takes hours, for these; they are refused before it sees them."""
    assert "cannot be parsed" in SourceFile("a.py", text).error


def test_deep_trees_are_an_error_where_python_cannot_follow() -> None:
    """490 terms pass the parser, and are either walked or refused in words, never an exception."""
    error = SourceFile("a.py", "x = " + "1 + " * 490 + "1\n").error
    assert error in ("", "a.py: nested too deeply to be parsed")


def test_looking_into_a_file_is_noted() -> None:
    """`status` counts parsed files; reading the text alone does not parse."""
    file = SourceFile("a.py", "x = 1\n")
    assert not file.looked_into
    assert file.data
    assert not file.looked_into
    assert file.error == ""
    assert file.looked_into
