"""Spans, parents and walks equal LibCST's own, on official code and on this project's."""

from __future__ import annotations

from pathlib import Path

import libcst as cst
import pytest
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper, ParentNodeProvider

from migrations.engine.tree import Places, children, walk

ROOT = Path(__file__).parents[3]
OFFICIAL = ("data/masking.py", "train/ssl_meta_arch.py", "utils/param_groups.py", "layers/block.py", "fsdp/__init__.py")
OWN = ("port/optim/param_groups.py", "parity/compare.py", "tests/conftest.py")
ODD = """\
@d
async def f(a, /, b: int = 1, *c, e=2, **g) -> None:
    async with x as y, z: await w
    for i, *j in k: yield i
    else: del l[0], m
    try: raise E from None
    except* (A, B) as q: pass
    finally: return (lambda *v, **u: v)(*s, t=1, **r)
match p:
    case {"é": [1, *_], **r} | C(n=2) as o if not o: global h
    case -1 | None: x: int = 3 if z else 4
print(f"{a!r:>{width}} {b=}" "c" r'd', b'e', [*{i: j for i in k if l for m in n}], a[1:2, ...], a @ b, not -c, (d := 5))
"""


class Visited(cst.CSTVisitor):
    """All nodes as LibCST's visitor meets them."""

    def __init__(self) -> None:
        self.nodes: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Note a node and go on below it."""
        self.nodes.append(node)
        return True


@pytest.fixture(params=[*OFFICIAL, *OWN, "odd"])
def module(request: pytest.FixtureRequest, official_root: Path) -> cst.Module:
    """A parsed file."""
    if request.param == "odd":
        return cst.parse_module(ODD)
    path = ROOT / request.param if request.param in OWN else official_root / "dinov2" / request.param
    return cst.parse_module(path.read_text(encoding="utf-8"))


def test_walk_meets_the_nodes_that_libcst_visits_in_its_order(module: cst.Module) -> None:
    """Parents first, left to right, nothing left out."""
    visited = Visited()
    module.visit(visited)
    assert [id(node) for node in walk(module)] == [id(node) for node in visited.nodes]


def test_spans_equal_libcsts(module: cst.Module) -> None:
    """The module's own span is the whole text; all others are those of LibCST's provider."""
    expected = MetadataWrapper(module, unsafe_skip_copy=True).resolve(ByteSpanPositionProvider)
    places = Places(module)
    for node, span in expected.items():
        if node is not module:
            assert places.spans[id(node)] == (span.start, span.start + span.length)
    assert len(places.nodes) == len(expected)


def test_parents_equal_libcsts(module: cst.Module) -> None:
    """The module has none."""
    expected = MetadataWrapper(module, unsafe_skip_copy=True).resolve(ParentNodeProvider)
    assert Places(module).parents == {id(node): parent for node, parent in expected.items()}


def test_the_text_is_the_files(module: cst.Module) -> None:
    """What the pass writes is what was parsed, its length included."""
    places = Places(module)
    assert places.text == module.code
    assert places.spans[id(module)] == (0, len(module.code.encode()))


def test_an_f_strings_format_is_a_child_wherever_the_first_one_had_none() -> None:
    """LibCST visits the format only where there is one; what is remembered of a class must not lose it."""
    plain, formatted = cst.parse_expression('f"{a}"'), cst.parse_expression('f"{a:>3}"')
    for text in (plain, formatted):
        assert isinstance(text, cst.FormattedString)
        list(walk(text))
    assert isinstance(formatted, cst.FormattedString)
    texts = [child for child in children(formatted.parts[0]) if isinstance(child, cst.FormattedStringText)]
    assert [text.value for text in texts] == [">3"]
