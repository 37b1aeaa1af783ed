"""A run as Markdown for a GitHub job summary: the terminal's content in its order, causes first, in less room."""

from __future__ import annotations

from collections.abc import Sequence

from parity.report.grouping import Cause, Evidence, compact_ids, gather_causes, gather_evidence, unattributed
from parity.report.markup import code as _code
from parity.report.markup import escape as _escape
from parity.report.markup import table as _rows
from parity.report.numbers import count, duration, printable
from parity.report.phrases import (
    NO_CAUSE,
    also_under,
    explained,
    named_causes,
    shared_reasons,
    sized,
    steps,
    worst_ratio,
    worst_ulp,
)
from parity.report.pictures import mask_lines, table_cells
from parity.report.provenance import environment, provenance
from parity.report.waivers import told_waiver, waiver_title
from parity.report.wording import family_summaries, verdict_line
from parity.results import CheckResult, Exhibit, RunResult

__all__ = ["as_markdown"]

MOST_TOLD = 8
"""Distinct sentences told of one cause, and next steps."""

MOST_DIVERGED = 50
"""Diverged checks described; GitHub refuses summaries above 1 MiB."""

MOST_ROWS = 6
"""Rows shown of an exhibit's table."""

_MASK_WIDTH = 120
_JUDGED = ("passed", "diverged", "waived")


def as_markdown(result: RunResult, exit_code: int | None = None) -> str:
    """Return the run as GitHub-flavoured Markdown that ends in a newline.

    Args:
        result: the run.
        exit_code: the code that the process will exit with, where it is not the run's own.
    """
    blocks = [f"## {_escape(verdict_line(result, exit_code))}", *_head(result), _families(result)]
    blocks += _causes(result)
    evidence = gather_evidence(result)
    if evidence:
        blocks += ["### Evidence", _divergences(evidence[:MOST_DIVERGED])]
    if len(evidence) > MOST_DIVERGED:
        blocks.append(f"and {count(len(evidence) - MOST_DIVERGED)} more diverged checks, see the JSON report")
    for block in evidence[:MOST_DIVERGED]:
        for exhibit in block.exhibits:
            blocks += [f"**{_code(block.first.id)}: {_escape(exhibit.title)}**", _exhibit(exhibit)]
    blocks += _reasons("Errors", [c for c in result.checks if c.status == "error"])
    blocks += _reasons("Not run", [c for c in result.checks if c.status == "not_run"])
    blocks += _waivers(result)
    blocks += _reasons("Run in part", [c for c in result.checks if c.status in _JUDGED and c.reason])
    return "\n\n".join(blocks) + "\n"


def _head(result: RunResult) -> list[str]:
    reference = result.reference
    lines = [_escape(provenance(reference))]
    lines += [f"**also modified: {_escape(line)}**" for line in reference.modified[1:]]
    lines += [f"> **Note:** {_escape(note)}" for note in reference.notes]
    facts = [f"subject: {_code(result.subject)}"]
    facts += [_escape(environment(result.environment))] if result.environment else []
    if reference.substitutes:
        facts.append(f"{len(reference.substitutes)} substitutes for kernels missing here")
    return [*lines, " · ".join(facts)]


def _families(result: RunResult) -> str:
    header = ("family", "checks", "compared", "bitwise equal", "worst ulp", "error / allowed", "verdict", "time")
    rows = [
        (
            _escape(summary.family),
            count(summary.checks),
            count(summary.compared),
            count(summary.bitwise_equal),
            _escape(worst_ulp(summary)),
            _escape(worst_ratio(summary)),
            f"**{summary.verdict}**" if summary.diverged or summary.errors else summary.verdict,
            duration(summary.seconds),
        )
        for summary in family_summaries(result)
    ]
    return _rows(header, rows)


def _causes(result: RunResult) -> list[str]:
    """Return the causes as one list, the checks without any at its end."""
    lines = [line for cause in gather_causes(result) for line in _cause(cause)]
    bare = unattributed(result)
    if bare:
        lines.append(f"- **no cause recorded**: {_code(compact_ids(check.id for check in bare))}: {NO_CAUSE}")
    return ["### Causes (in full: `python -m parity explain ID`)", "\n".join(lines)] if lines else []


def _cause(cause: Cause) -> list[str]:
    lines = [f"- **{_escape(cause.id) or 'not attributed'}**: {_escape(explained(cause))}"]
    prefix = "" if cause.id else "not attributed: "
    for told in cause.told[:MOST_TOLD]:
        official = f"; official: {_code(told.finding.official)}" if told.finding.official else ""
        lines.append(f"  - {prefix}{_escape(told.sentence)}{official}")
    if len(cause.told) > MOST_TOLD:
        lines.append(f"  - and {count(len(cause.told) - MOST_TOLD)} more findings, see the JSON report")
    return lines + [f"  - **next:** {_step(step)}" for step in steps(cause)[:MOST_TOLD]]


def _divergences(evidence: Sequence[Evidence]) -> str:
    header = ("check", "cause", "differ", "first divergence", "official", "yours", "size")
    rows = []
    for block in evidence:
        check = block.first
        differ = f"{count(len(check.diverged))} of {count(check.compared)}"
        differ += f"; {also_under(block)}" if len(block.checks) > 1 else ""
        cells = ["-"] * 4
        if check.diverged:
            first = check.diverged[0]
            cells = [_code(first.name), _code(first.reference), _code(first.subject), _escape(sized(first))]
        causes = named_causes(block).removeprefix("causes ").removeprefix("cause ") or NO_CAUSE
        rows.append((_code(check.id), _escape(causes), _escape(differ), *cells))
    return _rows(header, rows)


def _step(step: str) -> str:
    """Return the next step, in which backticks already mark the code."""
    return printable(step) if "`" in step else _escape(step)


def _exhibit(exhibit: Exhibit) -> str:
    if exhibit.kind == "masks":
        return "\n".join(["```text", *mask_lines(exhibit.rows, _MASK_WIDTH), "```"])
    columns, rows, left_out = table_cells(exhibit, MOST_ROWS)
    table = _rows([_escape(c) for c in columns], [[_escape(cell) for cell in row] for row in rows])
    return f"{table}\n\nand {count(left_out)} more rows, see the JSON report" if left_out else table


def _waivers(result: RunResult) -> list[str]:
    if not result.waivers:
        return []
    rows = [f"- {'**' * bool(w.problem)}{_escape(told_waiver(w))}{'**' * bool(w.problem)}" for w in result.waivers]
    return [f"### Waivers ({waiver_title(result)})", "\n".join(rows)]


def _reasons(title: str, checks: Sequence[CheckResult]) -> list[str]:
    if not checks:
        return []
    rows = [f"- {_code(compact_ids(ids))}: {_escape(reason)}" for reason, ids in shared_reasons(checks).items()]
    return [f"### {title} ({count(len(checks))})", "\n".join(rows)]
