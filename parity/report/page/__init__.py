"""A run as one HTML page: everything that the terminal says, every divergence, plots, and all checks to search in.

The page holds its own style and script and nothing else may be loaded: its content security policy allows these two, by
their hashes, and no network at all. Only `time` elements differ between two equal runs.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from parity.report.grouping import gather_evidence
from parity.report.numbers import duration
from parity.report.page.checks import checks_section
from parity.report.page.elements import Html, joined, section, tag, text, time
from parity.report.page.plots import error_plot, growth_plot
from parity.report.page.sections import (
    causes_section,
    divergences_section,
    families_section,
    head,
    reasons_section,
    waivers_section,
)
from parity.report.wording import verdict_line
from parity.results import RunResult

__all__ = ["as_html"]

_FOLDER = Path(__file__).parent


def as_html(result: RunResult, exit_code: int | None = None) -> str:
    """Return the run as one self-contained HTML page.

    Args:
        result: the run.
        exit_code: the code that the process will exit with, where it is not the run's own.
    """
    code = result.exit_code if exit_code is None else exit_code
    evidence = gather_evidence(result)
    style, script = (_FOLDER.joinpath(name).read_text("utf-8") for name in ("style.css", "search.js"))
    policy = f"default-src 'none'; style-src {_hashed(style)}; script-src {_hashed(script)}; "
    policy += "base-uri 'none'; form-action 'none'"
    page_head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", text(f"parity: {result.subject}: {verdict_line(result, exit_code).split(':')[0]}")),
        tag("style", Html(style)),
    )
    body = [tag("h1", _verdict(result, exit_code), class_=f"code-{code}", data_exit_code=str(code)), head(result)]
    body += [families_section(result), causes_section(result), waivers_section(result), divergences_section(evidence)]
    body += _without_verdict(result)
    body += [_plots(result), _growth(result), checks_section(result, evidence), tag("script", Html(script))]
    content = joined([page_head, tag("body", joined(part for part in body if part))])
    return f"<!DOCTYPE html>\n{tag('html', content, lang='en')}\n"


def _hashed(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _verdict(result: RunResult, exit_code: int | None) -> Html:
    """Return the verdict line with its duration marked as such."""
    before, _, after = verdict_line(result, exit_code).rpartition(f"{duration(result.seconds)} · exit ")
    return joined([text(before), time(result.seconds), text(f" · exit {after}")], "")


def _without_verdict(result: RunResult) -> list[Html]:
    partly = [c for c in result.checks if c.status in ("passed", "diverged") and c.reason]
    return [
        reasons_section("Errors", [c for c in result.checks if c.status == "error"], "errors"),
        reasons_section("Not run", [c for c in result.checks if c.status == "not_run"], "not-run"),
        reasons_section("Run in part", partly, "run-in-part"),
    ]


def _plots(result: RunResult) -> Html:
    about = "At the left end stand exact rules, which allow nothing; above the line, the error is more than is allowed."
    plots = [
        error_plot([c for check in result.checks if check.family == name for c in check.comparisons], name)
        for name in dict.fromkeys(check.family for check in result.checks)
    ]
    return section("Error against what is allowed", *plots, *[tag("p", text(about))] * any(plots), identity="plots")


def _growth(result: RunResult) -> Html:
    plots = [growth_plot(check.comparisons, check.id) for check in result.checks]
    return section("Growth over the steps", *plots, identity="growth")
