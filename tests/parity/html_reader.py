"""An HTML page as a tree, read as strictly as the parser of the standard library allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["Node", "read"]

_VOID = ("meta", "input", "link", "img", "br", "hr", "base")


@dataclass
class Node:
    """An element.

    Attributes:
        name: its tag.
        attributes: their values; "" where there is none.
        children: elements and texts in order.
    """

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    def all(self, name: str = "", **attributes: str) -> list[Node]:
        """Return the elements below with this name and these attributes, in order; `class_` spells `class`."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        return [
            node
            for node in self._below()
            if name in ("", node.name) and all(node.attributes.get(k) == v for k, v in wanted.items())
        ]

    def one(self, name: str = "", **attributes: str) -> Node:
        """Return the only such element."""
        (found,) = self.all(name, **attributes)
        return found

    def _below(self) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child._below()

    @property
    def text(self) -> str:
        """All text below, runs of blanks as one."""
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join(" ".join(parts).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in _VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"a processing instruction: {data}")


def read(page: str) -> Node:
    """Return the root of a page; an element that is not closed, or closes another, is an error."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [reader.root], f"not closed: {[node.name for node in reader.open[1:]]}"
    return reader.root
