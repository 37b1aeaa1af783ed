"""One place where a flag occurs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from migrations.engine.model import Edit
from migrations.engine.source import SourceFile

__all__ = ["DEFINE", "READ", "SET", "Use", "erase", "option_pattern", "uncovered"]

DEFINE, SET, READ = "define", "set", "read"


@dataclass(frozen=True)
class Use:
    """A place where a flag is defined, set or read.

    Attributes:
        flag: its name, `token_mask_ratio`.
        kind: DEFINE, SET or READ.
        path: of the file.
        line: from 1.
        value: default or value in words; empty where there is none or it is computed.
        edits: that remove this place; empty where a person must.
        why: why a person must.
        option: whether it is spelled `--flag`, which only a parser can mean.
        receiver: of a read `args.flag`, what it is an attribute of.
    """

    flag: str
    kind: str
    path: str
    line: int
    value: str = ""
    edits: tuple[Edit, ...] = ()
    why: str = ""
    option: bool = False
    receiver: str = ""

    @property
    def where(self) -> str:
        """`path:line`."""
        return f"{self.path}:{self.line}"


def option_pattern(flag: str) -> str:
    """Return the regular expression of `--flag` as a whole word; argparse takes dashes for underscores in names."""
    return r"(?<![\w-])--" + re.escape(flag).replace("_", "[-_]") + r"(?![\w-])"


def uncovered(spans: Iterable[tuple[int, int]], offset: int) -> bool:
    """Whether an offset lies in none of some spans."""
    return all(not start <= offset < end for start, end in spans)


def erase(file: SourceFile, start: int, end: int) -> Edit:
    """Return the edit that removes items of a list, dict or call, with their comma, and the line if it is then empty.

    Args:
        file: that holds them.
        start: offset of the first item.
        end: offset behind the last, before its comma.
    """
    data = file.data
    comma = re.compile(rb"[ \t]*,").match(data, end)
    behind = comma.end() if comma else end
    rest = re.compile(rb"[ \t]*(\r\n|\n|\r)").match(data, behind)
    before = re.compile(rb"(?<![^\r\n])[ \t]*\Z").search(data[:start])
    if rest and before:
        return Edit(file.path, before.start(), rest.end(), "")
    if comma:
        gap = re.compile(rb"[ \t]*").match(data, behind)
        return Edit(file.path, start, gap.end() if gap else behind, "")
    leading = re.compile(rb"\s*,\s*\Z").search(data[:start])
    return Edit(file.path, leading.start() if leading else start, end, "")
