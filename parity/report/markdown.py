"""A run as Markdown for a GitHub job summary: the terminal's content, in less room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from parity.report.numbers import count, duration, number, printable
from parity.report.pictures import mask_lines, table_cells
from parity.report.wording import difference, family_summaries, next_step, provenance, ratio, verdict_line
from parity.results import CheckResult, Exhibit, Finding, RunResult

__all__ = ["as_markdown"]

MOST_DIVERGED = 50
"""Diverged checks described; GitHub refuses summaries above 1 MiB."""

MOST_ROWS = 20
"""Rows shown of an exhibit's table."""

_MASK_WIDTH = 120


def as_markdown(result: RunResult, exit_code: int | None = None) -> str:
    """Return the run as GitHub-flavoured Markdown that ends in a newline.

    Args:
        result: the run.
        exit_code: the code that the process will exit with, where it is not the run's own.
    """
    diverged = [check for check in result.checks if check.status == "diverged"]
    blocks = [f"## {_escape(verdict_line(result, exit_code))}", *_head(result), _families(result)]
    for check in diverged[:MOST_DIVERGED]:
        blocks += _divergence(check)
    if len(diverged) > MOST_DIVERGED:
        blocks.append(f"and {count(len(diverged) - MOST_DIVERGED)} more diverged checks, see the JSON report")
    blocks += _reasons("Errors", [c for c in result.checks if c.status == "error"])
    blocks += _reasons("Not run", [c for c in result.checks if c.status == "not_run"])
    return "\n\n".join(blocks) + "\n"


def _escape(text: str) -> str:
    """Return one line that neither ends a table cell nor starts markup."""
    plain = printable(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "|*_[]#" else c for c in plain)


def _code(text: str) -> str:
    """Return text as inline code that no backtick and no bar in it can end."""
    plain = printable(text).replace("|", "\\|")
    if not plain:
        return "-"
    fence = "``" if "`" in plain else "`"
    return f"{fence} {plain} {fence}" if "`" in plain else f"{fence}{plain}{fence}"


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _head(result: RunResult) -> list[str]:
    reference = result.reference
    lines = [_escape(provenance(reference))]
    lines += [f"**also modified: {_escape(line)}**" for line in reference.modified[1:]]
    lines += [f"> **Note:** {_escape(note)}" for note in reference.notes]
    facts = [f"subject: {_code(result.subject)}"]
    facts += [f"{_escape(key)} {_escape(value)}" for key, value in result.environment.items()]
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
            number(summary.max_ulp),
            number(ratio(summary.worst) if summary.worst else None),
            f"**{summary.verdict}**" if summary.diverged or summary.errors else summary.verdict,
            duration(summary.seconds),
        )
        for summary in family_summaries(result)
    ]
    return _rows(header, rows)


def _divergence(check: CheckResult) -> list[str]:
    blocks = [f"### Diverged: {_code(check.id)}", _escape(check.title)]
    for finding in check.findings:
        official = f"; official: {_code(finding.official)}" if finding.official else ""
        cause = f"**Cause {_escape(finding.id)}:** {_escape(finding.sentence)}"
        blocks.append(f"{cause}{official}; next: {_step(finding)}")
    diverged = check.diverged
    if diverged:
        first = diverged[0]
        row = (_code(first.name), _code(first.reference), _code(first.subject), _escape(difference(first)))
        blocks.append(_rows(("first divergence", "official", "yours", "difference"), [row]))
    if len(diverged) > 1:
        blocks.append(f"and {count(len(diverged) - 1)} more of {count(check.compared)} comparisons")
    for exhibit in check.exhibits:
        blocks += [f"**{_escape(exhibit.title)}**", _exhibit(exhibit)]
    return blocks


def _step(finding: Finding) -> str:
    """Return the next step, in which backticks already mark the code."""
    step = next_step(finding)
    return printable(step) if "`" in step else _escape(step)


def _exhibit(exhibit: Exhibit) -> str:
    if exhibit.kind == "masks":
        return "\n".join(["```text", *mask_lines(exhibit.rows, _MASK_WIDTH), "```"])
    columns, rows, left_out = table_cells(exhibit, MOST_ROWS)
    table = _rows([_escape(c) for c in columns], [[_escape(cell) for cell in row] for row in rows])
    return f"{table}\n\nand {count(left_out)} more rows, see the JSON report" if left_out else table


def _reasons(title: str, checks: Sequence[CheckResult]) -> list[str]:
    if not checks:
        return []
    rows = [f"- {_code(check.id)}: {_escape(check.reason or 'no reason given')}" for check in checks]
    return [f"### {title} ({count(len(checks))})", "\n".join(rows)]
