"""The registry for a reader and for programs: a line per quirk, and JSON."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from parity.quirks.quirk import COMMIT, Quirk
from parity.quirks.verify import Verdict, exit_code

if TYPE_CHECKING:
    from parity.results import ReferenceInfo

__all__ = ["SCHEMA", "as_json", "facts", "plain_table", "verdict_table"]

SCHEMA = 1
"""Raised when a key changes its meaning or goes; new keys do not raise it."""

_POLICY: Mapping[str, str] = {
    "official": "as official by default; the switch corrects it",
    "corrected": "corrected by default",
    "documented": "as official, or without such a part; nothing to choose",
}
_WIDTH = 80
_GAP = "  "
_INDENT = " " * 5


def plain_table(quirks: Sequence[Quirk]) -> str:
    """Return one line per quirk: id, what official does, the first place where, port's policy, switch, evidence."""
    titles = ("id", "what official does", f"where, at {COMMIT}", "port", "switch", "evidence")
    rows = [(q.id, q.does, _place(q), q.policy, q.switch or "-", q.evidence) for q in quirks]
    lines = _aligned([titles, *rows])
    count = Counter(q.evidence for q in quirks)
    lines += ["", f"{_counted(len(quirks))}: " + ", ".join(f"{n} {kind}" for kind, n in count.items())]
    lines += [
        "`python -m parity quirks --verify` runs the evidence, `python -m parity explain Q1` tells the whole of one."
    ]
    return "\n".join(lines) + "\n"


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return two lines per quirk, its verdict and what was seen, and the sum of it with the exit code."""
    heads = _aligned([(v.quirk.id, v.status, v.quirk.evidence, v.quirk.does) for v in verdicts])
    lines = []
    for head, verdict in zip(heads, verdicts, strict=True):
        lines += [head, f"{_INDENT}{verdict.seen}"]
    count = Counter(v.status for v in verdicts)
    code = exit_code(verdicts)
    parts = ", ".join(
        f"{count[status]} {status}" for status in ("confirmed", "no longer so", "not run", "error") if count[status]
    )
    word = {0: "CONFIRMED", 1: "NO LONGER SO"}.get(code, "NO VERDICT")
    return "\n".join([*lines, "", f"{word}: {parts}, of {_counted(len(verdicts))} · exit {code}"]) + "\n"


def as_json(quirks: Sequence[Quirk], verdicts: Sequence[Verdict] = (), reference: ReferenceInfo | None = None) -> str:
    """Return the registry as a JSON document; `status` and `seen` are null where the evidence was not asked for."""
    found = {verdict.quirk.id: verdict for verdict in verdicts}
    document = {
        "schema": SCHEMA,
        "commit": COMMIT,
        "reference": asdict(reference) if reference else None,
        "quirks": [_row(quirk, found.get(quirk.id)) for quirk in quirks],
        "summary": dict(Counter(verdict.status for verdict in verdicts)),
        "exit_code": exit_code(verdicts) if verdicts else 0,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _row(quirk: Quirk, verdict: Verdict | None) -> dict[str, Any]:
    return {**asdict(quirk), "status": verdict.status if verdict else None, "seen": verdict.seen if verdict else None}


def facts(quirk: Quirk) -> str:
    """Return what the registry knows beside the page, in lines of at most 80 columns."""
    places = ", ".join(f"`dinov2/{place}`" for place in quirk.official)
    switch = f"`{quirk.switch}=official` or `corrected`" if quirk.switch else "none"
    rows = [
        f"Where, at {COMMIT}: {places}",
        f"Policy of `port`: {_POLICY[quirk.policy]}",
        f"Switch: {switch}",
        f"Evidence: {_evidence(quirk)}",
    ]
    if quirk.unproven and quirk.probe:
        rows.append(f"Not shown by it: {quirk.unproven}")
    if quirk.since:
        rows.append(f"Since: commit {quirk.since}; the code of April 2023 has it not")
    if quirk.threads:
        rows.append(f"Reported in: {', '.join(f'facebookresearch/{thread}' for thread in quirk.threads)}")
    return "\n".join(_wrapped(row) for row in rows)


def _evidence(quirk: Quirk) -> str:
    if not quirk.probe:
        return f"read; {quirk.unproven}"
    how = {"measured": "official code is run", "source": "its syntax tree is searched"}[quirk.evidence]
    module, _, name = quirk.probe.partition(".")
    return (
        f"{quirk.evidence}, {how} by `python -m parity quirks {quirk.id} --verify` "
        f"(`{name}` in `parity/quirks/evidence/{module}.py`)"
    )


def _wrapped(row: str) -> str:
    return textwrap.fill(
        row, _WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _counted(n: int) -> str:
    return f"{n} quirk{'' if n == 1 else 's'}"


def _place(quirk: Quirk) -> str:
    more = len(quirk.official) - 1
    return f"{quirk.official[0]}{f' +{more}' if more else ''}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with columns of equal width; the last column is as long as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        _GAP.join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
