"""The body of the terminal report: the causes, the evidence for them, and the checks without a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from parity.report.grouping import Cause, Evidence, compact_ids, gather_causes, unattributed
from parity.report.layout import heading, indented, labelled, line
from parity.report.numbers import count, printable
from parity.report.phrases import NO_CAUSE, also_under, explained, named_causes, shared_reasons, short, sized
from parity.report.pictures import mask_lines, table_cells, table_lines
from parity.results import CheckResult, Comparison, Exhibit, RunResult

__all__ = ["print_causes", "print_evidence", "print_reasons"]

MOST_TOLD = 8
"""Distinct sentences told of one cause."""

MOST_LISTED = 2
"""Diverging comparisons named after the first one."""

MOST_ROWS = 8
"""Rows shown of an exhibit's table."""


def print_causes(result: RunResult, console: Console) -> None:
    """Print every cause with its sentences, official lines and next steps, then the checks that have none."""
    gathered, bare = gather_causes(result), unattributed(result)
    if not gathered and not bare:
        return
    heading(console, "causes")
    for place, cause in enumerate(gathered):
        if place:
            console.print()
        title = Text(printable(cause.id) or "not attributed", style="bold")
        indented(console, title.append(f"  {explained(cause)}", style="not bold"), 0)
        _print_told(cause, console)
    if bare:
        console.print()
        indented(console, Text("no cause recorded", style="bold"), 0)
        labelled(console, [("-", f"{compact_ids(check.id for check in bare)}: {NO_CAUSE}")], 2, 1)


def _print_told(cause: Cause, console: Console) -> None:
    prefix = "" if cause.id else "not attributed: "
    shown = cause.told[:MOST_TOLD]
    rows = []
    for place, told in enumerate(shown):
        # The official line stands once, after the last of the sentences in a row that share it.
        last = place + 1 == len(shown) or shown[place + 1].finding.official != told.finding.official
        official = f" [{told.finding.official}]" if last and told.finding.official else ""
        rows.append(("-", f"{prefix}{told.sentence}{official}"))
    labelled(console, rows, 2, 1)
    if len(cause.told) > MOST_TOLD:
        indented(console, f"and {count(len(cause.told) - MOST_TOLD)} more findings, see --json", 4)
    labelled(console, [("next:", step) for step in cause.steps[:MOST_TOLD]], 2, 1)


def print_evidence(evidence: Evidence, console: Console) -> None:
    """Print one check: what it compares, its causes by name, its first divergence, and what there is to look at."""
    check = evidence.first
    console.print()
    title = Text(f"DIVERGED  {printable(check.id)}", style="bold red")
    causes = named_causes(evidence)
    title.append(printable(f" ({check.level}), {causes}" if causes else f" ({check.level})"), style="not bold default")
    if evidence.passed:
        title.append(f"; passed under {', '.join(evidence.passed)}", style="not bold default")
    indented(console, title, 0)
    indented(console, printable(check.title), 2)
    # Where there is a cause, it names the official lines that matter.
    if not causes:
        indented(console, NO_CAUSE, 2)
        labelled(console, [("official:", ", ".join(check.official))], 2, 1)
    if check.diverged:
        _print_first(check.diverged[0], console)
        _print_others(evidence, console)
    for exhibit in evidence.exhibits():
        indented(console, Text(printable(exhibit.title), style="italic"), 2)
        _print_exhibit(exhibit, console)


def _print_first(comparison: Comparison, console: Console) -> None:
    indented(console, f"first, tier {comparison.tier}: {printable(comparison.name)}", 2)
    rows = [("official", comparison.reference), ("yours", comparison.subject), ("size", sized(comparison))]
    labelled(console, rows, 4)


def _print_others(evidence: Evidence, console: Console) -> None:
    check = evidence.first
    text = f"{count(len(check.diverged))} of {count(check.compared)} comparisons differ"
    if len(evidence.checks) > 1:
        text += f"; also under {also_under(evidence)}"
    indented(console, text, 2)
    labelled(console, [("-", f"{c.name}: {short(c)}") for c in check.diverged[1 : 1 + MOST_LISTED]], 4, 1)


def _print_exhibit(exhibit: Exhibit, console: Console) -> None:
    width = max(20, console.width - 4)
    if exhibit.kind == "masks":
        for text in mask_lines(exhibit.rows, width):
            line(console, f"    {text}")
        return
    columns, rows, left_out = table_cells(exhibit, MOST_ROWS)
    for text in table_lines(columns, rows, width) if columns else []:
        line(console, f"    {text}")
    if left_out:
        indented(console, f"and {count(left_out)} more rows, see --json", 4)


def print_reasons(title: str, checks: Sequence[CheckResult], console: Console) -> None:
    """List checks without a verdict under the reasons that they share."""
    if not checks:
        return
    console.print()
    indented(console, f"{title} ({count(len(checks))}):", 0)
    labelled(console, [("-", f"{compact_ids(ids)}: {reason}") for reason, ids in shared_reasons(checks).items()], 2, 1)
