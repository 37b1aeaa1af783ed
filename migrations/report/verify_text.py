"""A verification as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from migrations.engine.verify import DIVERGES, ERROR, MENDED, NOT_RUN, OTHER, PASSES, WORSE, Row, Verification

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["verification_json", "verification_text"]

_STYLES = {
    MENDED: "green",
    PASSES: "green",
    DIVERGES: "red",
    OTHER: "yellow",
    WORSE: "red",
    NOT_RUN: "dim",
    ERROR: "red",
}


def verification_text(found: Verification, console: Console) -> str:
    """Return a table of checks by migration, why some were not run, and a last line."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("migration", "check", "before", "after", "verdict"):
        table.add_column(title, overflow="fold")
    previous = ""
    for row in found.rows:
        name = f"{row.migration} {row.title}" if row.migration != previous else ""
        previous = row.migration
        verdict = Text(row.verdict, style=_STYLES[row.verdict])
        table.add_row(name, row.check, str(row.before), str(row.after), verdict)
    with console.capture() as capture:
        console.print(f"reference:  {found.reference}")
        console.print(f"before:     {found.before}")
        console.print(f"after:      {found.after}\n")
        console.print(table)
        for line in reasons(found.rows):
            console.print(line)
        console.print(f"\n{summary(found)} · exit {found.exit_code}")
    return capture.get()


def reasons(rows: Sequence[Row]) -> list[str]:
    """Return why checks were not run or failed, each reason once."""
    lines = [
        f"{row.check} ({side}): {outcome.reason}"
        for row in rows
        for side, outcome in (("before", row.before), ("after", row.after))
        if outcome.status in ("not_run", "error") and outcome.reason
    ]
    return list(dict.fromkeys(lines))


def summary(found: Verification) -> str:
    """Return how often each verdict was given."""
    verdicts = [row.verdict for row in found.rows]
    order = (MENDED, PASSES, DIVERGES, OTHER, WORSE, NOT_RUN, ERROR)
    counted = [f"{verdicts.count(verdict)} {verdict}" for verdict in order if verdict in verdicts]
    return f"VERIFY: {len(verdicts)} checks: {', '.join(counted)}"


def verification_json(found: Verification) -> str:
    """Return the same as JSON, schema 1."""
    document = {
        "schema": 1,
        "reference": found.reference,
        "before": found.before,
        "after": found.after,
        "checks": [{**asdict(row), "verdict": row.verdict} for row in found.rows],
        "exit_code": found.exit_code,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"
