"""The table of flags, for people and for programs."""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from migrations.flags.files import Found
from migrations.flags.proposals import Row
from migrations.flags.table import Table
from migrations.flags.uses import DEFINE, READ, SET, Use

__all__ = ["as_json", "as_text", "diff"]

_PLACES = 6
"""Places shown per cell; --format json has all."""


def diff(found: Found, table: Table) -> str:
    """Return a unified diff of what is proposed."""
    parts: list[str] = []
    for path, text in table.texts.items():
        old, name = found.files[path].text.splitlines(keepends=True), path.lstrip("/")
        lines = difflib.unified_diff(old, text.splitlines(keepends=True), f"a/{name}", f"b/{name}")
        parts += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return "".join(parts)


def as_text(found: Found, table: Table, verdict: str, width: int, colour: bool) -> str:
    """Return the table, proposals, conflicts, files that could not be read, the diff and a last line."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, highlight=False, markup=False, emoji=False
    )
    with console.capture() as capture:
        if table.rows:
            console.print(_table(table.rows))
        for row in table.rows:
            if row.proposal:
                console.print(f"{row.flag} {_WORDS[row.proposal]}: {row.reason}")
        for row in table.rows:
            for one, other in row.conflicts:
                said = (
                    f"conflict: {row.flag} is {other.value} at {other.where}, its default is {one.value} ({one.where})"
                )
                console.print(said)
        for error in table.errors:
            console.print(f"not looked at: {error}")
        for line in diff(found, table).splitlines():
            # Tabs and long lines as they are: a diff is there to be copied.
            console.print(line, style=_style(line) if colour else None, soft_wrap=True)
        console.print(verdict)
    return capture.get()


_WORDS = {"goes": "goes", "stays": "stays for now", "blocked": "could go, but not by itself", "new": "is new"}


def _table(rows: Iterable[Row]) -> RichTable:
    table = RichTable(box=None, pad_edge=False)
    for title in ("flag", "defined", "set", "read"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(row.flag, _cell(row.of(DEFINE)), _cell(row.of(SET)), _cell(row.of(READ)))
    return table


def _cell(uses: list[Use]) -> str:
    shown = [f"{use.where} {use.value}".rstrip() for use in uses[:_PLACES]]
    return "\n".join([*shown, *([f"and {len(uses) - _PLACES} more"] if len(uses) > _PLACES else [])]) or "–"


def _style(line: str) -> str | None:
    if line.startswith(("+++", "---")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])


def as_json(found: Found, table: Table, **more: object) -> str:
    """Return the same as a JSON document, schema 1, with `more` keys."""
    document: dict[str, Any] = {
        "schema": 1,
        "flags": [
            {
                "flag": row.flag,
                "proposal": row.proposal or None,
                "reason": row.reason,
                **{kind: [_place(use) for use in row.of(kind)] for kind in (DEFINE, SET, READ)},
                "conflicts": [{"defined": one.where, "set": other.where} for one, other in row.conflicts],
            }
            for row in table.rows
        ],
        "errors": list(table.errors),
        "diff": diff(found, table),
        **more,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _place(use: Use) -> dict[str, Any]:
    kept = {key: value for key, value in asdict(use).items() if key in ("path", "line", "value", "why")}
    return {**kept, "removable": bool(use.edits)}
