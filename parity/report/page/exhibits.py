"""Exhibits on the page: tables, and masks side by side with the patches outlined that differ from the first mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.report.numbers import count
from parity.report.page.elements import Html, table, tag, text
from parity.report.pictures import table_cells
from parity.results import Exhibit

__all__ = ["exhibit"]

MOST_ROWS = 100
"""Rows shown of a table."""

_PATCH = 9
"""Pixels of a patch's side."""


def exhibit(shown: Exhibit) -> Html:
    """Return an exhibit with its caption."""
    content = _masks(shown.rows) if shown.kind == "masks" else _table(shown)
    return tag("figure", tag("figcaption", text(shown.title)), content)


def _table(shown: Exhibit) -> Html:
    columns, rows, left_out = table_cells(shown, MOST_ROWS)
    more = tag("p", text(f"and {count(left_out)} more rows, see the JSON report")) if left_out else Html("")
    return Html(table(columns, [[text(cell) for cell in row] for row in rows], class_="number") + more)


def _masks(rows: Sequence[Mapping[str, Any]]) -> Html:
    """Return masks beside each other; the first is what the others are compared with."""
    grids = [[[bool(patch) for patch in line] for line in row.get("mask", ())] for row in rows]
    pictures = [_mask(str(row.get("title", "")), grid, grids[0]) for row, grid in zip(rows, grids, strict=True)]
    return tag("div", *pictures, class_="row")


def _mask(title: str, grid: list[list[bool]], first: list[list[bool]]) -> Html:
    width, height = max(map(len, grid), default=0), len(grid)
    same_size = [len(line) for line in grid] == [len(line) for line in first]
    other = [
        (x, y) for y, line in enumerate(grid) for x, masked in enumerate(line) if same_size and masked != first[y][x]
    ]
    told = f"{title}, {sum(map(sum, grid))} of {sum(map(len, grid))} patches masked"
    told += f", {len(other)} unlike the first" if other else ""
    drawing = [
        tag("path", d=f"M0 0H{width * _PATCH}V{height * _PATCH}H0Z", class_="grid"),
        tag("path", d="".join(_runs(grid)), class_="masked"),
        tag("path", d="".join(f"M{x * _PATCH + 2} {y * _PATCH + 2}h5v5h-5z" for x, y in other), class_="other"),
    ]
    box = f"-1 -1 {width * _PATCH + 2} {height * _PATCH + 2}"
    size = {"width": str(width * _PATCH + 2), "height": str(height * _PATCH + 2), "viewBox": box}
    picture = tag("svg", *drawing, role="img", aria_label=told, **size)
    return tag("figure", picture, tag("figcaption", text(told)))


def _runs(grid: list[list[bool]]) -> list[str]:
    """Return one rectangle for each run of masked patches in a line."""
    paths = []
    for y, line in enumerate(grid):
        start = None
        for x, masked in enumerate([*line, False]):
            if masked and start is None:
                start = x
            elif not masked and start is not None:
                paths.append(f"M{start * _PATCH} {y * _PATCH}h{(x - start) * _PATCH}v{_PATCH}h-{(x - start) * _PATCH}z")
                start = None
    return paths
