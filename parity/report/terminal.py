"""A run as text for a terminal, a pipe or a log.

The first line is the provenance and the last the verdict. In between stand the table of families, the causes with
what to do about each, the evidence check by check, and what was not run. Words carry every verdict; colour only
repeats them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.report.grouping import gather_evidence
from parity.report.layout import indented, labelled, line
from parity.report.numbers import count, printable
from parity.report.phrases import worst_ratio, worst_ulp
from parity.report.provenance import environment, provenance
from parity.report.sections import print_causes, print_evidence, print_reasons, print_waivers
from parity.report.wording import difference, family_summaries, verdict_line
from parity.results import RunResult

__all__ = ["as_text", "print_report"]

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
    """Print the report: provenance, families, causes, evidence, errors, what was not run, verdict."""
    _print_head(result, console)
    _print_families(result, console)
    print_causes(result, console)
    for evidence in gather_evidence(result):
        print_evidence(evidence, console)
    print_reasons("errors", [c for c in result.checks if c.status == "error"], console)
    print_reasons("not run", [c for c in result.checks if c.status == "not_run"], console)
    print_waivers(result, console)
    print_reasons(
        "run in part", [c for c in result.checks if c.status in ("passed", "diverged", "waived") and c.reason], console
    )
    console.print()
    style = {0: "bold green", 1: "bold red"}.get(result.exit_code, "bold magenta")
    line(console, verdict_line(result, exit_code), style)


def _print_head(result: RunResult, console: Console) -> None:
    reference = result.reference
    sound = reference.identity == "verified" and not reference.modified
    line(console, provenance(reference), "" if sound else "bold red")
    for changed in reference.modified[1:]:
        indented(console, Text(f"also modified: {printable(changed)}", style="bold red"), 2)
    for note in reference.notes:
        console.print(Text(f"NOTE: {printable(note)}", style="bold yellow"))
    rows = [("subject:", result.subject)]
    if reference.substitutes:
        rows.append(("substitutes:", _substitutes(reference.substitutes, console.width)))
    rows.append(("environment:", environment(result.environment)))
    if result.doctor:
        passed = sum(c.passed for c in result.doctor)
        rows.append(("instrument:", f"{passed} of {len(result.doctor)} self-checks passed"))
    labelled(console, rows, 0)
    for comparison in (c for c in result.doctor if not c.passed):
        text = f"self-check failed: {printable(comparison.name)}: {difference(comparison)}"
        indented(console, Text(text, style="bold red"), 2)


def _substitutes(substitutes: Sequence[str], width: int) -> str:
    """Return how many substitutes there are, with as many of their names as fit beside the count."""
    names = [line.split(":")[0].rsplit(".", 1)[-1] for line in substitutes]
    room = width - 70
    shown = [name for end, name in enumerate(names, start=1) if end == 1 or len(", ".join(names[:end])) <= room]
    left = len(names) - len(shown)
    more = f" and {left} more" if left else ""
    return f"{len(names)} for missing kernels: {', '.join(shown)}{more}"


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
            worst_ulp(summary),
            worst_ratio(summary),
            Text(summary.verdict, style=style),
        )
    console.print(table if table.row_count else Text("\nno checks"))
