from __future__ import annotations

import ast

import pytest

from migrations.engine.source import SourceFile
from migrations.flow.glance import glance


def test_a_file_is_parsed() -> None:
    """The tree is Python's own, of all that the file holds; LibCST's is not made for it."""
    file = SourceFile("a.py", "x = 1\n\n\ndef f(ä):\n    return ä\n")
    tree = glance(file)
    assert tree is not None
    assert [type(node) for node in tree.body] == [ast.Assign, ast.FunctionDef]
    assert not file.looked_into


@pytest.mark.parametrize(
    "text",
    ["def f(:\n", "x = 1\n\0", "(" * 400 + ")" * 400 + "\n", "print 'Python 2'\n"],
    ids=["syntax", "a null byte", "too deep", "another Python"],
)
def test_what_the_parser_does_not_take_is_no_error(text: str) -> None:
    """Whoever asks must look with LibCST then, which names the line."""
    assert glance(SourceFile("a.py", text)) is None


def test_a_text_that_is_escaped_wrongly_says_nothing() -> None:
    """Python warns of such a text while it compiles; in a user's file that is not this project's business."""
    assert glance(SourceFile("a.py", 'x = "\\d"\n')) is not None
