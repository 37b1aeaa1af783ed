"""The body of the terminal report: the causes, the evidence for them, and the checks without a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from parity.report.grouping import Cause, Evidence, compact_ids, gather_causes, unattributed
from parity.report.layout import heading, indented, labelled, line
from parity.report.numbers import count, printable
from parity.report.phrases import (
    NO_CAUSE,
    also_under,
    explained,
    named_causes,
    shared_reasons,
    short,
    sized,
    steps,
)
from parity.report.pictures import mask_lines, table_cells, table_lines
from parity.report.waivers import told_waiver, waiver_title
from parity.results import CheckResult, Exhibit, RunResult

__all__ = ["print_causes", "print_evidence", "print_reasons", "print_waivers"]

MOST_TOLD = 8
"""Distinct sentences told of one cause."""

MOST_LISTED = 2
"""Diverging comparisons named after the first one."""

MOST_ROWS = 6
"""Rows shown of an exhibit's table."""


def print_causes(result: RunResult, console: Console) -> None:
    """Print every cause with its sentences, official lines and next steps, then the checks that have none."""
    gathered, bare = gather_causes(result), unattributed(result)
    if not gathered and not bare:
        return
    heading(console, "causes (in full: python -m parity explain ID)" if gathered else "causes")
    for place, cause in enumerate(gathered):
        if place:
            console.print()
        title = Text(printable(cause.id) or "not attributed", style="bold")
        indented(console, title.append(f"  {explained(cause)}", style="not bold"), 0)
        _print_told(cause, console)
    if bare:
        console.print()
        title = Text("no cause recorded", style="bold")
        indented(console, title.append(f": {printable(compact_ids(c.id for c in bare))}", style="not bold"), 0)


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
    labelled(console, [("next:", step) for step in steps(cause)[:MOST_TOLD]], 2, 1)


def print_evidence(evidence: Evidence, console: Console) -> None:
    """Print one check: what it compares, its causes by name, its first divergence, and what there is to look at."""
    check = evidence.first
    causes = named_causes(evidence)
    about = [f"({check.level})", *([causes] if causes else [])]
    about += [f"passed under {', '.join(evidence.passed)}"] if evidence.passed else []
    console.print()
    title = Text(f"DIVERGED  {printable(check.id)}", style="bold red")
    indented(console, title.append(f" {printable(', '.join(about))}", style="not bold default"), 0)
    indented(console, printable(check.title), 2)
    # Where there is a cause, it names the official lines that matter.
    if not causes:
        official = f"; official: {', '.join(check.official)}" if check.official else ""
        indented(console, printable(f"{NO_CAUSE}{official}"), 2)
    if check.diverged:
        _print_divergences(check, console)
    if len(evidence.checks) > 1:
        indented(console, f"also under {also_under(evidence)}", 2)
    for exhibit in evidence.exhibits:
        indented(console, Text(printable(exhibit.title), style="italic"), 2)
        _print_exhibit(exhibit, console)
    if evidence.elsewhere:
        indented(console, f"a table of the same kind is shown under {printable(evidence.elsewhere)}", 2)


def _print_divergences(check: CheckResult, console: Console) -> None:
    """Print how many comparisons differ, the first in full, and a few more in one line each."""
    first, *others = check.diverged
    counted = f"{count(len(check.diverged))} of {count(check.compared)} comparison{'s' * (check.compared != 1)} differ"
    indented(console, f"{counted}; first ({first.tier}): {printable(first.name)}", 2)
    labelled(console, [("official", first.reference), ("yours", first.subject), ("size", sized(first))], 4)
    labelled(console, [("-", f"{c.name}: {short(c)}") for c in others[:MOST_LISTED]], 4, 1)


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


def print_waivers(result: RunResult, console: Console) -> None:
    """List every waiver with what became of it, those that failed first."""
    if not result.waivers:
        return
    console.print()
    indented(console, f"waivers ({waiver_title(result)}):", 0)
    ordered = sorted(result.waivers, key=lambda waiver: not waiver.problem)
    labelled(console, [("-", told_waiver(waiver)) for waiver in ordered], 2, 1)
