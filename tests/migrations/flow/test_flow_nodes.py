from __future__ import annotations

import libcst as cst
import pytest

from migrations.flow.nodes import argument, attribute_chain, callee, find_all, literal, names_in, target_names


def call(code: str) -> cst.Call:
    """An expression that is a call."""
    node = cst.parse_expression(code)
    assert isinstance(node, cst.Call)
    return node


def code(node: cst.CSTNode | None) -> str | None:
    """A node's text."""
    return None if node is None else cst.Module([]).code_for_node(node)


def test_find_all_is_in_the_order_of_the_text() -> None:
    """The node itself counts, and nodes of other kinds do not."""
    tree = cst.parse_expression("f(a + 1, g(b))")
    assert [callee(node) for node in find_all(tree, cst.Call)] == ["f", "g"]
    assert [code(node) for node in find_all(tree, cst.Integer)] == ["1"]


@pytest.mark.parametrize(
    ("text", "chain"),
    [("a", "a"), ("a.b.c", "a.b.c"), ("a().b", ""), ("a[0].b", ""), ("'x'.join", ""), ("(a).b", "a.b")],
)
def test_attribute_chain(text: str, chain: str) -> None:
    """Only names and attributes make a chain."""
    assert attribute_chain(cst.parse_expression(text)) == chain


@pytest.mark.parametrize(("text", "name"), [("f(1)", "f"), ("a.b.f(1)", "f"), ("f()(1)", ""), ("a[0](1)", "")])
def test_callee(text: str, name: str) -> None:
    """The last name of what is called."""
    assert callee(call(text)) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f(1, x=2)", "2"),
        ("f(1, 3)", "3"),
        ("f(1)", None),
        ("f(*a, 3)", None),
        ("f(1, *a)", None),
        ("f(1, **k)", None),
        ("f(1, 3, *a)", "3"),
    ],
)
def test_argument_by_keyword_or_position(text: str, expected: str | None) -> None:
    """What stands behind a star is at no known position."""
    assert code(argument(call(text), "x", 1)) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-1", -1),
        ("1e-5", 1e-5),
        ("'a' 'b'", "ab"),
        ("(1, [2], {'k': None})", (1, [2], {"k": None})),
        ("True", True),
        ("None", None),
        ("a", ...),
        ("a.b", ...),
        ("a[0]", ...),
        ("1 < 2", ...),
        ("[1 for a in b]", ...),
        ("1 if a else 2", ...),
        ("not True", ...),
        ("1 or 2", ...),
        ("1 + x", ...),
        ("f()", ...),
        ("f'{a}'", ...),
    ],
)
def test_literal(text: str, value: object) -> None:
    """Ellipsis says that there is no literal, so that a literal None can be told from it."""
    assert literal(cst.parse_expression(text)) == value
    assert literal(None) is ...


def test_names_in_an_expression() -> None:
    """Attributes and keywords are no names that are read."""
    assert names_in(cst.parse_expression("f(a.b, key=c)[d] + (lambda: e)()")) == {"f", "a", "c", "d", "e"}


@pytest.mark.parametrize(
    ("text", "names"),
    [("a", ["a"]), ("a, (b, [c, d])", ["a", "b", "c", "d"]), ("a, *b", ["a", "b"]), ("a.b, c[0]", [])],
)
def test_target_names(text: str, names: list[str]) -> None:
    """Nested and starred targets bind; attributes and subscripts bind no name."""
    assert target_names(cst.parse_expression(text)) == names
