"""`status` as text: how the project stands, a line for each difference, what is left to a person, what to type next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from migrations.engine.model import Finding
from migrations.engine.survey import Result, Survey
from migrations.report.layout import captured, labelled, line
from migrations.report.words import STYLES, headline, level_word, many, next_steps, place
from parity.report.numbers import printable

__all__ = ["status_text"]

_MORE = 4
"""Sites of one difference that are listed beside the first; the others are counted."""


def status_text(survey: Survey, console: Console) -> str:
    """Return what `status` prints."""
    with captured(console) as text:
        line(console, f"{printable(survey.tree.given)}: {headline(survey.results)}", "bold")
        console.print()
        console.print(_table(survey.results))
        _print_person(survey.results, console)
        if survey.advisory:
            line(console, "advisory, changes no exit code:", "bold")
            told = [result for result in survey.advisory if result.findings or result.failure]
            if told:
                console.print(_table(told))
            if silent := len(survey.advisory) - len(told):
                line(console, f"{many(silent, 'advisory rule')} looked and found nothing", "dim")
            console.print()
        _print_next(survey, console)
        _print_files(survey, console)
    return text()


def _table(results: Sequence[Result]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(4):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    if results:
        table.add_row(*(Text(title, "dim") for title in ("id", "state", "rewrite", "where", "what was found")))
    for result in results:
        _add_rows(table, result)
    return table


def _add_rows(table: Table, result: Result) -> None:
    id_, state = result.migration.id, result.state
    if result.main is None:
        what = f"its rule failed: {result.failure}" if result.failure else "looked for, and nothing found"
        table.add_row(id_, Text(state.value, STYLES[state]), "", "-", printable(f"{result.migration.title}: {what}"))
        return
    table.add_row(id_, Text(state.value, STYLES[state]), *_cells(result.main, f"{result.migration.title}: "))
    others = [finding for finding in result.open if finding is not result.main]
    for finding in others[:_MORE]:
        table.add_row("", Text(finding.state.value, STYLES[finding.state]), *_cells(finding))
    if len(others) > _MORE:
        table.add_row("", "", "", "", Text(f"and {len(others) - _MORE} more; --format json lists all", "dim"))


def _cells(finding: Finding, title: str = "") -> tuple[Text, Text, Text]:
    evidence = printable(f"{title}{finding.evidence}")
    if finding.blocked_by:
        evidence += f" (blocked by {', '.join(map(printable, dict.fromkeys(finding.blocked_by)))})"
    return Text(level_word(finding)), Text(printable(place(finding)), "cyan"), Text(evidence)


def _print_person(results: Sequence[Result], console: Console) -> None:
    console.print()
    said: set[str] = set()
    rows = []
    for result in results:
        for finding in result.open:
            if finding.person and finding.person not in said:
                said.add(finding.person)
                where = f"{finding.site}: " if finding.site else ""
                rows.append((result.migration.id, printable(f"{where}{finding.person}")))
    if rows:
        line(console, "left to you:", "bold")
        labelled(console, rows)
        console.print()


def _print_next(survey: Survey, console: Console) -> None:
    for label, step in zip(("next:", "then:"), next_steps(survey.results, survey.tree.given), strict=False):
        if not step.command:
            line(console, f"{label} {step.effect}", "bold")
            continue
        line(console, f"{label} {step.command}", "bold")
        line(console, f"      {step.effect}", "dim")
    first = next((result.migration.id for result in survey.results if not result.state.settled), "")
    if first:
        line(console, f"why:  python -m migrations explain {first}", "")
    console.print()


def _print_files(survey: Survey, console: Console) -> None:
    files = len(survey.tree.project.files)
    folders = f", {many(len(survey.tree.folders), 'folder')} left out" if survey.tree.folders else ""
    line(
        console,
        f"{many(files, 'file')} looked at, {survey.parsed:,} of them parsed, {survey.skipped:,} skipped{folders}, "
        f"{survey.seconds:.1f} s",
        "dim",
    )
    for remark in survey.remarks:
        line(console, f"  {printable(str(remark))}", "yellow")
