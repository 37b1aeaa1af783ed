"""A run as text for a terminal, a pipe or a log.

The first line is the provenance and the last the verdict. In between stand the table of families, every
divergence under its cause, and what was not run. Words carry every verdict; colour only repeats them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from parity.report.numbers import count, number, printable
from parity.report.pictures import mask_lines, table_cells, table_lines
from parity.report.wording import (
    FamilySummary,
    attribution,
    difference,
    family_summaries,
    next_step,
    provenance,
    ratio,
    verdict_line,
)
from parity.results import CheckResult, Comparison, Exhibit, Finding, RunResult

__all__ = ["as_text", "print_report"]

MOST_LISTED = 5
"""Diverging comparisons named after the first one."""

MOST_ROWS = 20
"""Rows shown of an exhibit's table."""

_STYLES = {"passed": "green", "DIVERGED": "bold red", "ERROR": "bold magenta", "not run": "yellow"}


def as_text(result: RunResult, console: Console, exit_code: int | None = None) -> str:
    """Return the report as the console would show it, with its width, colours and encoding.

    The text is captured rather than printed: rich ends the process with code 1 when a pipe breaks, and code 1
    means divergence.

    Args:
        result: the run.
        console: decides width and colour.
        exit_code: the code that the process will exit with, where it is not the run's own.
    """
    with console.capture() as capture:
        print_report(result, console, exit_code)
    # rich fills lines with blanks, which are noise in a log, and sets tables off with empty lines of its own.
    text = "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
    return re.sub(r"\n{3,}", "\n\n", text)


def print_report(result: RunResult, console: Console, exit_code: int | None = None) -> None:
    """Print the report: provenance, families, divergences, errors, what was not run, verdict."""
    _print_head(result, console)
    _print_families(result, console)
    told: set[tuple[str, ...]] = set()
    for check in result.checks:
        if check.status == "diverged":
            _print_divergence(check, console, told)
    _print_reasons("errors", [c for c in result.checks if c.status == "error"], console)
    _print_reasons("not run", [c for c in result.checks if c.status == "not_run"], console)
    console.print()
    style = {0: "bold green", 1: "bold red"}.get(result.exit_code, "bold magenta")
    _line(console, verdict_line(result, exit_code), style)


def _line(console: Console, text: str, style: str = "") -> None:
    """Print one line that only the terminal itself wraps, so that tools can read it whole."""
    console.print(Text(text, style=style), soft_wrap=True)


def _indented(console: Console, text: str | Text, by: int) -> None:
    console.print(Padding(Text(text) if isinstance(text, str) else text, (0, 0, 0, by)))


def _labelled(console: Console, rows: Iterable[tuple[str, str]], by: int) -> None:
    """Print labels and texts in two columns; long texts wrap inside theirs and are never cut."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    shown = [(label, text) for label, text in rows if text]
    for label, text in shown:
        grid.add_row(Text(label), Text(printable(text)))
    if shown:
        console.print(Padding(grid, (0, 0, 0, by)))


def _print_head(result: RunResult, console: Console) -> None:
    reference = result.reference
    sound = reference.identity == "verified" and not reference.modified
    _line(console, provenance(reference), "" if sound else "bold red")
    for line in reference.modified[1:]:
        _indented(console, Text(f"also modified: {printable(line)}", style="bold red"), 2)
    for note in reference.notes:
        console.print(Text(f"NOTE: {printable(note)}", style="bold yellow"))
    rows = [("subject:", result.subject)]
    if reference.substitutes:
        rows.append(("substitutes:", _substitutes(reference.substitutes, console.width)))
    rows.append(("environment:", ", ".join(f"{key} {value}" for key, value in result.environment.items())))
    if result.doctor:
        passed = sum(c.passed for c in result.doctor)
        rows.append(("instrument:", f"{passed} of {len(result.doctor)} self-checks passed"))
    _labelled(console, rows, 0)
    for comparison in (c for c in result.doctor if not c.passed):
        text = f"self-check failed: {printable(comparison.name)}: {difference(comparison)}"
        _indented(console, Text(text, style="bold red"), 2)


def _substitutes(substitutes: Sequence[str], width: int) -> str:
    """Return how many substitutes there are, with as many of their names as about two lines hold."""
    names = [line.split(":")[0].rsplit(".", 1)[-1] for line in substitutes]
    room = 2 * width - 70
    shown = [name for end, name in enumerate(names, start=1) if end == 1 or len(", ".join(names[:end])) <= room]
    left = len(names) - len(shown)
    more = f" and {left} more, see --json" if left else ""
    return f"{len(names)} for kernels missing here: {', '.join(shown)}{more}"


def _print_families(result: RunResult, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("family", no_wrap=True)
    for title in ("checks", "compared", "bitwise\nequal", "worst\nulp", "error /\nallowed"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict")
    for summary in family_summaries(result):
        style = next((s for word, s in _STYLES.items() if summary.verdict.startswith(word)), "yellow")
        table.add_row(
            printable(summary.family),
            count(summary.checks),
            count(summary.compared),
            count(summary.bitwise_equal),
            number(summary.max_ulp),
            _worst_ratio(summary),
            Text(summary.verdict, style=style),
        )
    console.print(table if table.row_count else Text("\nno checks"))


def _worst_ratio(summary: FamilySummary) -> str:
    """Return error / allowed of the worst comparison, where the failures have a size at all."""
    worst = summary.worst
    if summary.within < summary.compared and (worst is None or worst.passed or not worst.allowed):
        return "not exact"
    return "-" if worst is None else number(ratio(worst))


def _print_divergence(check: CheckResult, console: Console, told: set[tuple[str, ...]]) -> None:
    console.print()
    console.print(Text(f"DIVERGED  {printable(check.id)}", style="bold red"))
    base = ("check", check.id.split("[")[0])
    again = base in told and all((f.id, f.sentence) in told for f in check.findings)
    told.add(base)
    if not again:
        official = ", ".join(check.official)
        _labelled(console, [("what", f"{check.title} ({check.level})"), ("official", official)], 2)
    _print_causes(check.findings, console, told)
    diverged = check.diverged
    if again and diverged:
        counted = f"{count(len(diverged))} of {count(check.compared)} diverge, first {printable(diverged[0].name)}"
        _indented(console, f"{counted}: {_short(diverged[0])}", 2)
        return
    if diverged:
        _print_first(diverged[0], console)
        _print_others(diverged[1:], check.compared, console)
    for exhibit in check.exhibits:
        console.print()
        _indented(console, Text(printable(exhibit.title), style="italic"), 2)
        _print_exhibit(exhibit, console)


def _print_causes(findings: Sequence[Finding], console: Console, told: set[tuple[str, ...]]) -> None:
    """Print causes in full where they are met first, and under later checks by their ids only."""
    if not findings:
        _indented(console, "no known difference has this signature", 2)
    known = [f for f in findings if (f.id, f.sentence) in told]
    for finding in findings:
        if finding in known:
            continue
        told.add((finding.id, finding.sentence))
        text = Text(f"cause {printable(finding.id)}: ", style="bold")
        _indented(console, text.append(printable(finding.sentence), style="not bold"), 2)
        step = (finding.id, finding.official, next_step(finding))
        rows = [("official", finding.official), ("next", next_step(finding))]
        _labelled(console, rows if step not in told else rows[:1], 4)
        told.add(step)
    if known:
        ids = ", ".join(attribution(known))
        _indented(console, f"cause{'s' * (',' in ids)} {printable(ids)}: as above", 2)


def _print_first(comparison: Comparison, console: Console) -> None:
    _indented(console, f"first divergence, tier {comparison.tier}: {printable(comparison.name)}", 2)
    rows = [
        ("official", comparison.reference),
        ("yours", comparison.subject),
        ("difference", difference(comparison)),
        ("where", comparison.note),
    ]
    _labelled(console, rows, 4)


def _short(comparison: Comparison) -> str:
    return comparison.note or "not equal" if comparison.error is None else difference(comparison)


def _print_others(others: Sequence[Comparison], compared: int, console: Console) -> None:
    if not others:
        return
    _indented(console, f"{count(len(others))} more of {count(compared)} diverge:", 2)
    _labelled(console, [("-", f"{c.name}: {_short(c)}") for c in others[:MOST_LISTED]], 4)
    if len(others) > MOST_LISTED:
        _indented(console, f"and {count(len(others) - MOST_LISTED)} more, see --json", 4)


def _print_exhibit(exhibit: Exhibit, console: Console) -> None:
    if exhibit.kind == "masks":
        for line in mask_lines(exhibit.rows, max(20, console.width - 4)):
            console.print(Text(f"    {line}"), soft_wrap=True)
        return
    columns, rows, left_out = table_cells(exhibit, MOST_ROWS)
    for line in table_lines(columns, rows, max(20, console.width - 4)) if columns else []:
        console.print(Text(f"    {line}"), soft_wrap=True)
    if left_out:
        _indented(console, f"and {count(left_out)} more rows, see --json", 4)


def _print_reasons(title: str, checks: Sequence[CheckResult], console: Console) -> None:
    """List checks without a verdict under the reasons that they share."""
    if not checks:
        return
    console.print()
    _indented(console, f"{title} ({count(len(checks))}):", 0)
    reasons: dict[str, list[str]] = {}
    for check in checks:
        reasons.setdefault(check.reason or "no reason given", []).append(check.id)
    _labelled(console, [("-", f"{', '.join(ids)}: {reason}") for reason, ids in reasons.items()], 2)
