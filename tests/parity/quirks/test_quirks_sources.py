from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

import pytest

from parity.quirks.sources import (
    attributes_read,
    calls,
    function,
    keyword,
    strings_read,
    tree,
    trees,
    union_annotations,
)


@dataclass
class Files:
    """As much of a reference as questions about its source need."""

    files: dict[str, bytes] = field(default_factory=dict)


def of(text: str, path: str = "dinov2/a.py") -> Any:
    """Return a reference of one file."""
    return Files({path: text.encode()})


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("x = cfg.train.seed", ["dinov2/a.py:1"]),
        ("y = 1\nx = self.cfg.train.seed + 1", ["dinov2/a.py:2"]),
        ('x = cfg.train["seed"]', ["dinov2/a.py:1"]),
        ('x = cfg["train"]["seed"]', ["dinov2/a.py:1"]),
        ("x = train.seed", ["dinov2/a.py:1"]),
        ("cfg.train.seed = 3", []),
        ("x = cfg.train.seeds", []),
        ("x = cfg.seed", []),
        ("x = 'cfg.train.seed'  # cfg.train.seed", []),
        ("x = cfg.train().seed", []),
    ],
)
def test_a_chain_of_attributes_is_found_where_it_is_read(text: str, places: list[str]) -> None:
    """Attributes or constant subscripts, at the end of any chain; not in comments, strings or as a target."""
    assert attributes_read(of(text), "train", "seed") == places


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('x = data["key"]', ["dinov2/a.py:1"]),
        ('f(data.get("key"))', ["dinov2/a.py:1"]),
        ('data["key"] = 1', []),
        ('data["key"] += 1', []),
        ('data["key"] = data["key"]', ["dinov2/a.py:1"]),
        ('data["keys"]', []),
    ],
)
def test_a_string_that_is_only_assigned_to_is_not_read(text: str, places: list[str]) -> None:
    """What nobody looks up is dead, however often it is stored."""
    assert strings_read(of(text), "key") == places


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("def f(x: float | None = None): ...", 1),
        ("def f(x) -> int | str: ...", 1),
        ("def f(x: List[int | None]): ...", 1),
        ("x: int | None = 3", 1),
        ("def f(x: Optional[float] = None, y: int = 1 | 2): ...", 0),
        ("from __future__ import annotations\ndef f(x: float | None = None): ...", 0),
    ],
)
def test_annotations_that_old_python_cannot_evaluate(text: str, n: int) -> None:
    """`|` in an annotation counts, nested too, unless annotations are not evaluated; in a default it does not."""
    assert len(union_annotations(of(text))) == n


def test_calls_come_in_the_order_of_their_lines() -> None:
    """By the last name: of a function, a method, or something in a module."""
    module = ast.parse("a.b.save(1)\nsave(2)\nother(save(3))\nsaved(4)")
    assert [ast.unparse(call) for call in calls(module, "save")] == ["a.b.save(1)", "save(2)", "save(3)"]


def test_a_keyword_is_given_as_source() -> None:
    """Constants keep their quotes; what is not given is an empty text, `**options` is no keyword."""
    (call,) = calls(ast.parse("f(backend='nccl', n=3 * m, **options)"), "f")
    assert (keyword(call, "backend"), keyword(call, "n"), keyword(call, "options")) == ("'nccl'", "3 * m", "")


def test_a_function_is_found_inside_a_class() -> None:
    """Methods too; one that is missing is named."""
    module = ast.parse("class A:\n    def save(self): return 7")
    assert function(module, "save").lineno == 2
    with pytest.raises(LookupError, match="no function load"):
        function(module, "load")


def test_only_python_files_are_parsed() -> None:
    """A configuration is no module; a single file is asked for below `dinov2/`."""
    reference: Any = Files({"dinov2/b.py": b"x = 1", "dinov2/a.yaml": b"- : not python", "dinov2/a.py": b"y = 2"})
    assert [path for path, _ in trees(reference)] == ["dinov2/a.py", "dinov2/b.py"]
    assert ast.unparse(tree(reference, "b.py")) == "x = 1"
