"""Foreign text as GitHub-flavoured Markdown: nothing in it starts markup, ends a cell or ends a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from parity.report.numbers import printable

__all__ = ["code", "escape", "table"]


def escape(text: str) -> str:
    """Return one line that neither ends a table cell nor starts markup."""
    plain = printable(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "|*_[]#" else c for c in plain)


def code(text: str) -> str:
    """Return text as inline code that no backtick and no bar in it can end."""
    plain = printable(text).replace("|", "\\|")
    if not plain:
        return "-"
    fence = "``" if "`" in plain else "`"
    return f"{fence} {plain} {fence}" if "`" in plain else f"{fence}{plain}{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
