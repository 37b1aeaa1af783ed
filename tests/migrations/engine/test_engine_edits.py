from __future__ import annotations

import libcst as cst
import pytest

from migrations.engine.edits import OverlapError, apply_edits, delete_statement, insert_after, insert_before, replace
from migrations.engine.model import Edit
from migrations.engine.source import SourceFile


def call(file: SourceFile, code: str) -> cst.Call:
    """The call with that text."""
    return next(node for node in file.nodes(cst.Call) if file.code(node) == code)


def statement(file: SourceFile, code: str) -> cst.BaseStatement:
    """The statement of the call with that text."""
    found = file.statement(call(file, code))
    assert found is not None
    return found


def test_replace_keeps_what_is_around() -> None:
    """Blanks, comments and the rest of the line stay."""
    file = SourceFile("a.py", "x  =  f( 1 ) ; y = 2  # é\n")
    assert apply_edits(file, [replace(file, call(file, "f( 1 )"), "g(2)")]) == "x  =  g(2) ; y = 2  # é\n"


def test_replace_takes_the_files_line_ends() -> None:
    """Code of several lines gets CRLF in a file of CRLF."""
    file = SourceFile("a.py", "x = f()\r\n")
    assert apply_edits(file, [replace(file, call(file, "f()"), "g(\n    1\n)")]) == "x = g(\r\n    1\r\n)\r\n"


def test_insert_before_and_after_take_the_indentation() -> None:
    """Tabs stay tabs; blank lines get no blanks; comments above stay above the statement's own line."""
    file = SourceFile("a.py", "if a:\n\t# why\n\tf()\n")
    line = statement(file, "f()")
    assert apply_edits(file, [insert_before(file, line, "g()\n\nh()")]) == "if a:\n\t# why\n\tg()\n\n\th()\n\tf()\n"
    assert apply_edits(file, [insert_after(file, line, "g()")]) == "if a:\n\t# why\n\tf()\n\tg()\n"


def test_insert_after_the_last_line_without_an_end() -> None:
    """The last line gets an end, the new last line gets none, as before."""
    file = SourceFile("a.py", "f()")
    assert apply_edits(file, [insert_after(file, statement(file, "f()"), "g()")]) == "f()\ng()"


def test_insert_before_a_decorated_function() -> None:
    """New lines go above the decorator, not between it and the function."""
    file = SourceFile("a.py", "class A:\n    @d\n    def m(self):\n        f()\n")
    (function,) = file.nodes(cst.FunctionDef)
    text = apply_edits(file, [insert_before(file, function, "x = 1")])
    assert text == "class A:\n    x = 1\n    @d\n    def m(self):\n        f()\n"


def test_delete_takes_decorators_along() -> None:
    """A decorator without its function would decorate the next one."""
    file = SourceFile("a.py", "@d\n@e(1)\nclass A:\n    x = 1\nf()\n")
    (definition,) = file.nodes(cst.ClassDef)
    assert apply_edits(file, [delete_statement(file, definition)]) == "f()\n"


def test_insert_after_a_compound_statement() -> None:
    """New lines stand behind its body, in its own indentation."""
    file = SourceFile("a.py", "if a:\n    f()\ng()\n")
    (block,) = file.nodes(cst.If)
    assert apply_edits(file, [insert_after(file, block, "h()")]) == "if a:\n    f()\nh()\ng()\n"


def test_delete_removes_whole_lines() -> None:
    """A statement over several lines goes with its trailing comment; the comment above stays."""
    file = SourceFile("a.py", "# about f\nf(\n    1,\n)  # gone\ng()\n")
    assert apply_edits(file, [delete_statement(file, statement(file, "f(\n    1,\n)"))]) == "# about f\ng()\n"


def test_delete_leaves_pass_in_an_empty_block() -> None:
    """A block needs a statement; `pass` has the indentation and line end of what it replaces."""
    file = SourceFile("a.py", "if a:\r\n    f()\r\ng()\r\n")
    assert apply_edits(file, [delete_statement(file, statement(file, "f()"))]) == "if a:\r\n    pass\r\ng()\r\n"


def test_delete_of_the_body_behind_a_colon() -> None:
    """`if a: f()` has its body on the line of the condition: the condition must not go with it."""
    file = SourceFile("a.py", "if a: f()\ng()\n")
    suite = next(iter(file.nodes(cst.SimpleStatementSuite)), None)
    assert suite is not None
    (found,) = file.nodes(cst.If)
    assert file.statement(call(file, "f()")) is found
    assert apply_edits(file, [delete_statement(file, found)]) == "g()\n"


def test_edits_are_carried_out_in_the_order_of_the_text() -> None:
    """Offsets are of the text before, whatever the order in which edits are given."""
    file = SourceFile("a.py", "f() + g() + h()\n")
    edits = [replace(file, call(file, f"{name}()"), f"{name}{name}()") for name in "hfg"]
    assert apply_edits(file, edits) == "ff() + gg() + hh()\n"


def test_the_same_edit_twice_is_one() -> None:
    """Two findings may both need an import."""
    file = SourceFile("a.py", "f()\n")
    edit = insert_before(file, statement(file, "f()"), "import x")
    assert apply_edits(file, [edit, edit]) == "import x\nf()\n"


def test_neighbours_do_not_overlap() -> None:
    """An edit may begin where another ends, and an insertion may stand at an edge."""
    file = SourceFile("a.py", "ab\n")
    edits = [Edit("a.py", 0, 1, "x"), Edit("a.py", 1, 2, "y"), Edit("a.py", 2, 2, "z")]
    assert apply_edits(file, edits) == "xyz\n"


@pytest.mark.parametrize(
    "pair", [((0, 3), (2, 4)), ((0, 4), (1, 2)), ((1, 1), (1, 1))], ids=["crossing", "inside", "same place"]
)
def test_overlapping_edits_are_refused(pair: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Neither order nor meaning would be known; the message names the lines."""
    file = SourceFile("a.py", "abcdef\n")
    edits = [Edit("a.py", start, end, str(number)) for number, (start, end) in enumerate(pair)]
    with pytest.raises(OverlapError, match="lines 1 and 1"):
        apply_edits(file, edits)


@pytest.mark.parametrize("edit", [Edit("b.py", 0, 1, ""), Edit("a.py", 2, 1, ""), Edit("a.py", 0, 99, "")])
def test_edits_that_do_not_fit_are_refused(edit: Edit) -> None:
    """Another file's, one that ends before it begins, one behind the end."""
    with pytest.raises(ValueError, match="does not fit"):
        apply_edits(SourceFile("a.py", "x = 1\n"), [edit])
