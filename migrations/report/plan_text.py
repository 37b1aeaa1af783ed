"""`plan` and `apply` as text: a coloured diff for each migration in the order of application, and what is left."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from migrations.engine.model import Finding
from migrations.engine.planning import Plan, Step
from migrations.report.diff import between
from migrations.report.layout import captured, labelled, line, patch_line
from migrations.report.words import LEVELS, STYLES, headline, many, place
from parity.report.numbers import printable

__all__ = ["plan_text"]


def plan_text(plan: Plan, console: Console, again: str, written: Sequence[str] | None = None) -> str:
    """Return what `plan` and `apply` print.

    Args:
        plan: what is changed.
        console: decides width and colour.
        again: the command that writes this plan.
        written: the files that were written; None where nothing was to be written.
    """
    with captured(console) as text:
        for step in plan.steps:
            _print_step(step, console, diff=written is None)
        _print_sum(plan, console, again, written)
    return text()


def _print_step(step: Step, console: Console, *, diff: bool) -> None:
    state = step.before.state
    if not step.taken and not step.not_taken and not step.before.failure:
        line(console, f"{step.migration.id}  {state.value}: {step.migration.title}", STYLES[state])
        return
    arrow = f" → {step.after.state.value}" if step.taken else ""
    line(console, f"{step.migration.id}  {state.value}{arrow}: {step.migration.title}", f"bold {STYLES[state]}")
    if step.before.failure:
        line(console, f"  its rule failed: {printable(step.before.failure)}; please report it", "bold red")
    for finding in step.taken:
        line(console, f"  {LEVELS[finding.level]}: {_sentence(finding)}", "green")
        if finding.person:
            line(console, f"    left to you: {printable(finding.person)}")
    if diff and step.taken:
        for one in between(step.start, step.end):
            patch_line(console, _shown(one))
    for left in step.not_taken:
        line(console, f"  not taken, {printable(left.why)}: {_sentence(left.finding)}", "yellow")
        if left.finding.person:
            labelled(console, [("", printable(left.finding.person))])
    console.print()


def _sentence(finding: Finding) -> str:
    return printable(f"{place(finding)} {finding.evidence}" if finding.site else finding.evidence)


def _shown(text: str) -> str:
    """Return a line of a file without what would steer the terminal; tabs stay."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def _print_sum(plan: Plan, console: Console, again: str, written: Sequence[str] | None) -> None:
    taken = sum(len(step.taken) for step in plan.steps)
    changes = f"{many(taken, 'change')} in {many(len(plan.changed), 'file')}"
    if written is not None:
        line(console, f"written: {changes}" if taken else "nothing to write at the levels allowed", "bold")
        for path in written:
            line(console, f"  {printable(path)}")
        line(console, headline(list(plan.final.values())))
        return
    if not taken:
        line(console, "no change at the levels allowed; nothing was written", "bold")
        return
    line(console, f"{changes}; nothing was written. After them: {headline(list(plan.final.values()))}", "bold")
    line(console, f"next: {again}", "bold")
