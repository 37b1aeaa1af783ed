"""A difference between two reports as text for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from parity.diff.changes import Change, Difference, Growth
from parity.diff.load import INSTRUMENT, Check, Report
from parity.report.json_report import dump
from parity.report.layout import indented, labelled, line
from parity.report.markup import code, escape
from parity.report.numbers import count, number, printable
from parity.report.records import Record

__all__ = ["DIFF_SCHEMA", "as_json", "as_markdown", "as_text"]

DIFF_SCHEMA = 1
"""Of the JSON form; raised when a key changes its meaning or goes."""

MOST_CHECKS = 20
"""Checks named per section."""

MOST_CHANGES = 3
"""Comparisons named per check."""

MOST_GROWTHS = 10
"""Grown errors named."""

_LONGEST = 160


@dataclass(frozen=True)
class _Item:
    """A line, and the lines under it."""

    text: str
    under: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Section:
    """A title with everything that it counts, and the lines that fit."""

    title: str
    items: Sequence[_Item]


def as_text(difference: Difference, console: Console, exit_code: int | None = None) -> str:
    """Return the difference as the console would show it.

    Args:
        difference: what is told.
        console: decides width and colour.
        exit_code: the code that the process will exit with, where it is not the difference's own.
    """
    with console.capture() as capture:
        for label, report in (("A", difference.before), ("B", difference.after)):
            indented(console, f"{label}: {_about(report)}", 0)
        for note in _notes(difference):
            indented(console, Text(note, style="bold yellow"), 0)
        for section in _sections(difference):
            console.print()
            indented(console, Text(f"{section.title}:", style="bold"), 0)
            for item in section.items:
                labelled(console, [("-", item.text)], 2, 1)
                labelled(console, [("-", text) for text in item.under], 6, 1)
        console.print()
        line(console, _verdict(difference, exit_code), "bold red" if difference.exit_code else "bold green")
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def as_markdown(difference: Difference, exit_code: int | None = None) -> str:
    """Return the difference as GitHub-flavoured Markdown that ends in a newline; arguments as for `as_text`."""
    reports = [("A", difference.before), ("B", difference.after)]
    blocks = [f"## {escape(_verdict(difference, exit_code))}"]
    blocks.append("\n".join(f"- {label}: {code(str(r.path))}{escape(_facts(r))}" for label, r in reports))
    blocks += [f"> **Note:** {escape(note)}" for note in _notes(difference)]
    for section in _sections(difference):
        lines = []
        for item in section.items:
            lines += [f"- {escape(item.text)}", *(f"  - {escape(text)}" for text in item.under)]
        blocks += [f"### {escape(section.title)}", "\n".join(lines)]
    return "\n\n".join(blocks) + "\n"


def as_json(difference: Difference, exit_code: int | None = None) -> str:
    """Return the difference in full as a JSON document that ends in a newline; arguments as for `as_text`."""
    before, after = difference.before, difference.after
    kinds = ("failing", "passing", "missing", "added", "lost", "gained")
    return dump(
        {
            "diff_schema": DIFF_SCHEMA,
            "before": {"path": str(before.path), "exit_code": before.exit_code, "attribution": before.causes},
            "after": {"path": str(after.path), "exit_code": after.exit_code, "attribution": after.causes},
            "worse": difference.reasons,
            "settings": [{"name": name, "before": a, "after": b} for name, a, b in difference.settings],
            "gone": [_check(check) for check in difference.gone],
            "new": [_check(check) for check in difference.new],
            "statuses": [{"id": a.id, "before": _check(a), "after": _check(b)} for a, b in difference.statuses],
            "counts": [{"id": a.id, "before": _check(a), "after": _check(b)} for a, b in difference.counts],
            **{kind: [_change(change) for change in getattr(difference, kind)] for kind in kinds},
            "growths": [
                {**_change(g.change), "share_before": g.before, "share_after": g.after} for g in difference.growths
            ],
            "exit_code": difference.exit_code if exit_code is None else exit_code,
        }
    )


def _check(check: Check) -> dict[str, Any]:
    return {key: value for key, value in asdict(check).items() if key != "records"}


def _change(change: Change) -> dict[str, Any]:
    sides = {"before": change.before, "after": change.after}
    record = change.after or change.before
    assert record is not None
    named = {"check": change.check, "name": record.name, "tier": record.tier}
    return named | {key: side and _sizes(side) for key, side in sides.items()}


def _sizes(record: Record) -> dict[str, Any]:
    return {key: value for key, value in asdict(record).items() if key not in ("name", "tier")}


def _about(report: Report) -> str:
    return f"{report.path}{_facts(report)}"


def _facts(report: Report) -> str:
    statuses = [check.status for check in report.checks.values() if check.id != INSTRUMENT]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    told = ", ".join(f"{count(n)} {status.replace('_', ' ')}" for status, n in counts.items())
    causes = f"; causes: {', '.join(cause or 'not attributed' for cause in report.causes)}" if report.causes else ""
    return f": {told or 'no checks'}; exit {report.exit_code}{causes}"


def _notes(difference: Difference) -> list[str]:
    return [
        f"{label} does not name its comparisons (it was written before reports did): compared by counts alone"
        for label, report in (("A", difference.before), ("B", difference.after))
        if not report.has_records
    ]


def _sections(difference: Difference) -> list[_Section]:
    d = difference
    settings = [_Item(f"{name}: {_value(a)} → {_value(b)}") for name, a, b in d.settings]
    statuses = [_Item(f"{a.id}: {_status(a)} → {_status(b)}") for a, b in d.statuses]
    counts = [_Item(f"{a.id}: {_counted(a)} → {_counted(b)}") for a, b in d.counts]
    growths = [_Item(_growth(growth)) for growth in d.growths[:MOST_GROWTHS]]
    found = [
        ("provenance and options that differ", len(settings), settings),
        ("causes that only A has", *_causes(d.before.causes, d.after.causes)),
        ("causes that only B has", *_causes(d.after.causes, d.before.causes)),
        ("checks only in A", len(d.gone), _checks(d.gone)),
        ("checks only in B", len(d.new), _checks(d.new)),
        ("checks with another status", len(statuses), statuses),
        ("checks with other counts", len(counts), counts),
        ("comparisons that newly fail", len(d.failing), _by_check(d.failing)),
        ("comparisons that newly pass", len(d.passing), _by_check(d.passing)),
        ("comparisons that B lacks", len(d.missing), _by_check(d.missing)),
        ("comparisons that A lacks", len(d.added), _by_check(d.added)),
        ("comparisons no longer equal bit for bit, within tolerance", len(d.lost), _by_check(d.lost)),
        ("comparisons now equal bit for bit", len(d.gained), _by_check(d.gained)),
        ("errors that grew in relation to what is allowed", len(d.growths), growths),
    ]
    return [_Section(f"{title} ({count(many)})", items) for title, many, items in found if many]


def _causes(mine: Sequence[str], others: Sequence[str]) -> tuple[int, list[_Item]]:
    ids = [id_ for id_ in mine if id_ not in others]
    return len(ids), [_Item(id_ or "not attributed") for id_ in ids]


def _checks(checks: Sequence[Check]) -> list[_Item]:
    items = [_Item(f"{check.id}: {_status(check)}, {_counted(check)}") for check in checks[:MOST_CHECKS]]
    left = len(checks) - len(items)
    return [*items, *[_Item(f"and {count(left)} more checks, see --json")] * (left > 0)]


def _by_check(changes: Iterable[Change]) -> list[_Item]:
    grouped: dict[str, list[Change]] = {}
    for change in changes:
        grouped.setdefault(change.check, []).append(change)
    items = []
    for id_, group in list(grouped.items())[:MOST_CHECKS]:
        under = [f"{change.name}: {_size(change.before)} → {_size(change.after)}" for change in group[:MOST_CHANGES]]
        left = len(group) - len(under)
        under += [f"and {count(left)} more"] if left > 0 else []
        items.append(_Item(f"{id_}: {count(len(group))}", tuple(under)))
    left = len(grouped) - len(items)
    return [*items, *[_Item(f"and in {count(left)} more checks, see --json")] * (left > 0)]


def _growth(growth: Growth) -> str:
    change = growth.change
    shares = f"{number(growth.before)} → {number(growth.after)} of what is allowed"
    return f"{change.check} {change.name}: {shares} ({_size(change.before)} → {_size(change.after)})"


def _size(record: Record | None) -> str:
    if record is None:
        return "not compared"
    if record.bitwise and record.passed:
        return "equal"
    if record.error is None:
        return "not equal"
    return f"{'' if record.passed else 'FAILS, '}{number(record.error)}, allowed {number(record.allowed)}"


def _status(check: Check) -> str:
    status = check.status.replace("_", " ") if check.status in ("passed", "not_run") else check.status.upper()
    return f"{status} ({_cut(check.reason)})" if check.reason else status


def _counted(check: Check) -> str:
    return f"{count(check.within)} of {count(check.compared)} within tolerance"


def _value(value: object) -> str:
    if value is None:
        return "not given"
    return _cut(", ".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"


def _cut(text: str) -> str:
    flat = re.sub(r"\s+", " ", printable(text))
    return flat if len(flat) <= _LONGEST else f"{flat[:_LONGEST]}…"


def _verdict(difference: Difference, exit_code: int | None) -> str:
    code = difference.exit_code if exit_code is None else exit_code
    if difference.exit_code:
        return printable(f"WORSE: {', '.join(difference.reasons)} · exit {code}")
    told = "nothing differs but times" if difference.empty else "everything that passed in A passes in B"
    if _notes(difference):
        told = "nothing that can be compared is worse"
    return f"NOT WORSE: {told} · exit {code}"
