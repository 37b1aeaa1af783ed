"""The table of all checks, to search in."""

from __future__ import annotations

from collections.abc import Sequence

from parity.report.grouping import Evidence
from parity.report.numbers import count
from parity.report.page.elements import Html, section, table, tag, text, time
from parity.report.wording import attribution, difference, worst
from parity.results import CheckResult, RunResult

__all__ = ["checks_section"]


def checks_section(result: RunResult, evidence: Sequence[Evidence]) -> Html:
    """Return the table of all checks, with a field that searches it where the page's script runs."""
    places = {check.id: place for place, block in enumerate(evidence) for check in block.checks}
    header = (
        "check",
        "level",
        "status",
        "compared",
        "bitwise equal",
        "diverged",
        "nearest to its limit",
        "causes",
        "time",
    )
    rows = [_check_row(check, places.get(check.id)) for check in result.checks]
    statuses = dict.fromkeys(check.status for check in result.checks)
    choices = [tag("option", text("all"), value="")]
    choices += [tag("option", text(status.replace("_", " ")), value=status) for status in statuses]
    search = tag(
        "div",
        tag("label", text("search "), tag("input", type="search", id="search-words", autocomplete="off")),
        tag("label", text("status "), tag("select", *choices, id="search-status")),
        tag("output", id="search-found"),
        class_="search",
        hidden="hidden",
    )
    return section(f"All checks ({count(len(rows))})", search, table(header, rows, id="all-checks"), identity="checks")


def _check_row(check: CheckResult, place: int | None) -> tuple[Html, ...]:
    name = tag("code", text(check.id))
    status = tag("span", text(check.status.replace("_", " ")), class_=check.status, data_status=check.status)
    about = tag("div", text(check.title), class_="faint")
    return (
        Html((name if place is None else tag("a", name, href=f"#divergence-{place}")) + about),
        text(check.level),
        status,
        text(count(check.compared)),
        text(count(check.bitwise_equal)),
        text(count(len(check.diverged))),
        text(_nearest(check)),
        text(", ".join(id_ or "not attributed" for id_ in attribution(check.findings))),
        time(check.seconds),
    )


def _nearest(check: CheckResult) -> str:
    """Return the comparison nearest to its limit, or furthest beyond it; a dash where all are equal bit for bit."""
    extreme = worst(check.comparisons)
    return "-" if extreme is None or (extreme.passed and extreme.bitwise) else f"{extreme.name}: {difference(extreme)}"
