"""Exhibits as text: masks side by side in half-block characters, and tables.

A character cell is about twice as high as wide, so that one cell shows two rows of a mask and a square grid
of patches looks square. Every mask stands in a frame, because unmasked patches are blank.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from parity.report.numbers import count, printable
from parity.results import Exhibit

__all__ = ["cell", "half_blocks", "mask_lines", "table_cells", "table_lines"]

_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
_GAP = 2
_NARROWEST_TITLE = 16


def half_blocks(mask: Sequence[Sequence[bool]]) -> list[str]:
    """Return a mask (H rows of W booleans, True = masked) as ceil(H / 2) lines of W characters."""
    lines = []
    for top in range(0, len(mask), 2):
        upper = mask[top]
        lower = mask[top + 1] if top + 1 < len(mask) else [False] * len(upper)
        lines.append("".join(_HALVES[bool(u), bool(d)] for u, d in zip(upper, lower, strict=True)))
    return lines


def mask_lines(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Return masks beside each other, as many in a row as `width` characters allow.

    Args:
        rows: mappings with `title` and `mask` (H rows of W booleans; the sizes may differ between masks).
        width: characters available; a mask that is wider alone is cut, and its title says so.

    Returns:
        Lines without trailing blanks; rows of masks are separated by an empty line.
    """
    blocks = [_block(str(row.get("title", "")), row.get("mask", ()), width) for row in rows]
    lines: list[str] = []
    while blocks:
        taken = [blocks.pop(0)]
        used = len(taken[0][0])
        while blocks and used + _GAP + len(blocks[0][0]) <= width:
            used += _GAP + len(blocks[0][0])
            taken.append(blocks.pop(0))
        lines += [""] * bool(lines) + _beside(taken)
    return lines


def _block(title: str, mask: Sequence[Sequence[bool]], width: int) -> list[str]:
    """Return title and framed mask as lines of one width."""
    columns = len(mask[0]) if len(mask) else 0
    shown = max(0, min(columns, width - 2))
    if shown < columns:
        title = f"{title} (columns 1 to {shown} of {columns})"
    inner = max(shown + 2, min(width, _NARROWEST_TITLE))
    picture = half_blocks([list(row)[:shown] for row in mask])
    framed = [f"┌{'─' * shown}┐", *(f"│{line}│" for line in picture), f"└{'─' * shown}┘"]
    titles = textwrap.wrap(printable(title), inner) or [""]
    return [line.ljust(inner) for line in [*titles, *framed]]


def _beside(blocks: Sequence[list[str]]) -> list[str]:
    """Join blocks side by side, their last lines on one level so that the frames align."""
    height = max(len(block) for block in blocks)
    padded = [[" " * len(block[0])] * (height - len(block)) + block for block in blocks]
    return [(" " * _GAP).join(parts).rstrip() for parts in zip(*padded, strict=True)]


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a table as lines of text: numbers to the right, and no cell ever cut.

    A table wider than `width` first closes its gaps, then puts heads of two words on two lines, and then continues
    below itself, with the columns up to the first one of words repeated: whoever reads a row must see whose it is.
    """
    body = [list(row) for row in rows]
    heads = [[printable(column) for column in columns]]
    widths = _widths(heads + body)
    gap = 2 if sum(widths) + 2 * (len(columns) - 1) <= width else 1
    if sum(widths) + len(columns) - 1 > width:
        # Heads of two words on two lines may make room for all columns; else the head stays as it is.
        split = [list(line) for line in zip(*(_split(column) for column in heads[0]), strict=True)]
        if sum(_widths(split + body)) + len(columns) - 1 <= width:
            heads, widths = split, _widths(split + body)
    numeric = [all(line[index][:1] in "-+.0123456789" for line in body) for index in range(len(columns))]
    keys = numeric.index(False) + 1 if False in numeric else 1
    lines: list[str] = []
    start = keys
    while start < len(columns) or not lines:
        end = min(start + 1, len(columns))
        key_width = sum(widths[:keys]) + gap * (keys - 1)
        while end < len(columns) and key_width + sum(widths[start : end + 1]) + gap * (end + 1 - start) <= width:
            end += 1
        band = [*range(keys), *range(start, end)]
        text = [
            (" " * gap).join(_aligned(line[index], widths[index], right=numeric[index]) for index in band).rstrip()
            for line in heads + body
        ]
        rule = "─" * (sum(widths[index] for index in band) + gap * (len(band) - 1))
        lines += [*([""] if lines else []), *text[: len(heads)], rule, *text[len(heads) :]]
        start = end
    return lines


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*cells, strict=True)]


def _split(column: str) -> tuple[str, str]:
    """Return a head as two lines; one word stands on the lower one."""
    first, _, second = column.partition(" ")
    return (first, second) if second else ("", first)


def _aligned(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def cell(value: object) -> str:
    """Return one cell of a table: floats in six significant digits, None as `-`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    return printable(str(value))


def table_cells(exhibit: Exhibit, most: int) -> tuple[list[str], list[list[str]], int]:
    """Return a table's columns, its first `most` rows as text, and how many rows are left out."""
    columns = list(dict.fromkeys(key for row in exhibit.rows for key in row))
    rows = [[cell(row.get(column, "")) for column in columns] for row in exhibit.rows[:most]]
    return columns, rows, max(0, len(exhibit.rows) - most)
