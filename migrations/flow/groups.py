"""The parameter groups that an expression makes: how many, in which order, and which are spared from weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import libcst as cst

from migrations.engine.source import SourceFile

__all__ = ["Frame", "Group", "Layout", "Many", "Unclear", "flat", "shape"]


class Unclear(Exception):  # noqa: N818 - not an error: the answer "the source does not tell"
    """What cannot be told from the source, with its place.

    Attributes:
        file, node: the place that does not tell.
        why: what is not known there, in words a fork's owner understands.
    """

    def __init__(self, file: SourceFile, node: cst.CSTNode, why: str) -> None:
        super().__init__(f"{file.site(node)}: {why}")
        self.file, self.node, self.why = file, node, why


@dataclass(frozen=True)
class Frame:
    """A function whose expressions are read.

    Attributes:
        file: that holds it.
        scope: the function, or the module.
        given: what its parameters were given, by name, each with the frame of its expression.
        depth: how many calls were followed to come here.
    """

    file: SourceFile
    scope: cst.FunctionDef | cst.Module
    given: Mapping[str, tuple[cst.BaseExpression, Frame]] = field(default_factory=dict)
    depth: int = 0


@dataclass(frozen=True)
class Group:
    """One parameter group as its builder writes it.

    Attributes:
        keys: literal values by key; Ellipsis where a value is not literal.
        spared: whether the builder takes it out of weight decay; None where that depends on the parameter.
        file, node: where it is written.
    """

    keys: Mapping[str, object]
    spared: bool | None
    file: SourceFile
    node: cst.CSTNode


@dataclass(frozen=True)
class Many:
    """Groups that repeat, a number of times that the source does not tell.

    Attributes:
        items: that repeat.
        over: what is iterated over, as text.
    """

    items: Layout
    over: str


Layout = tuple["Group | Many", ...]


def flat(layout: Layout) -> list[Group]:
    """Return the groups of a layout, what repeats once."""
    found: list[Group] = []
    for item in layout:
        found += [item] if isinstance(item, Group) else flat(item.items)
    return found


def shape(layout: Layout) -> tuple[object, ...]:
    """Return what two layouts have in common if they are alike: keys and what is spared, not places."""
    return tuple(
        (tuple(sorted((k, repr(v)) for k, v in item.keys.items())), item.spared)
        if isinstance(item, Group)
        else ("many", shape(item.items))
        for item in layout
    )
