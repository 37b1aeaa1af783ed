"""Every form of a report says the same of a run, and two runs that differ in times differ in nothing else."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import pytest
from fabricated_reports import everything
from fabricated_results import diverged, only_not_run, passing
from report_readers import Said, from_html, from_json, from_junit, from_markdown, from_terminal
from rich.console import Console

from parity.report import as_annotations, as_html, as_json, as_junit, as_markdown, as_text
from parity.report.github import MOST_ANNOTATIONS
from parity.results import RunResult
from parity.run import Options, run


def _as_wide_text(result: RunResult, exit_code: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=2000, highlight=False, markup=False, emoji=False)
    return as_text(result, console, exit_code)


class Render(Protocol):
    """Makes a report."""

    def __call__(self, result: RunResult, exit_code: int | None = None, /) -> str:
        """Return its text."""


FORMATS: dict[str, tuple[Render, Callable[[str], Said]]] = {
    "json": (as_json, from_json),
    "junit": (as_junit, from_junit),
    "html": (as_html, from_html),
    "markdown": (as_markdown, from_markdown),
    "terminal": (_as_wide_text, from_terminal),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_what_the_run_is(name: str) -> None:
    """Exit code, counts, causes root first, and the status of every check, read back from the text of each format."""
    render, parse = FORMATS[name]
    said = parse(render(everything()))
    assert said == Said(
        exit_code=1,
        # By hand: 135 of `diverged`, and 2 + 2 + 2 + 1 + 20; failing 130 + 1 + 1 + 6; equal 3 + 1 + 2 + 8.
        counts=(162, 24, 14, 12),
        causes=("reference", "0005", "Q3"),
        statuses={
            "files.identity": "diverged",
            "gradients.step[vitl14]": "diverged",
            "gradients.step[default]": "diverged",
            "modules.head[vitl14]": "not_run",
            "masks.block[vitl14]": "error",
            "collate.batch[default]": "diverged",
            "modules.head[default]": "not_run",
            "losses.koleo[default]": "error",
            "trajectory.steps[default]": "diverged",
        },
    )


@pytest.mark.parametrize("result", [passing(), only_not_run(), diverged()])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "terminal"])
def test_formats_agree_on_parity_and_on_no_verdict(result: RunResult, name: str) -> None:
    """What JSON says, the others say, whatever the verdict is."""
    render, parse = FORMATS[name]
    assert parse(render(result)) == from_json(as_json(result))
    assert parse(render(result)).exit_code == result.exit_code


@pytest.mark.parametrize("name", FORMATS)
def test_formats_agree_on_the_processs_exit_code(name: str) -> None:
    """A code of the process that is not the run's own, since a report could not be written, is told by each."""
    render, parse = FORMATS[name]
    assert parse(render(everything(), 2)).exit_code == 2


def test_annotations_name_the_same_causes_in_the_same_order() -> None:
    """GitHub gets causes, checks without one, then errors; errors where the code is not 0, a notice where it is."""
    lines = as_annotations(everything()).splitlines()
    assert len(lines) <= MOST_ANNOTATIONS + 1
    titles = [re.findall(r"title=parity%3A ([^:%]+)", line)[0] for line in lines]
    said = from_json(as_json(everything()))
    assert tuple(titles[: len(said.causes)]) == said.causes
    errors = [id_ for id_, status in said.statuses.items() if status == "error"]
    assert titles[-len(errors) :] == [f"error in {id_}" for id_ in errors]
    for result in (passing(), diverged(), only_not_run(), everything()):
        level = "::notice " if result.exit_code == 0 else "::error "
        assert all(line.startswith(level) for line in as_annotations(result).splitlines())


def _without_times(document: Any) -> Any:
    """Drop what the JSON report says is time."""
    if isinstance(document, dict):
        return {k: _without_times(v) for k, v in document.items() if k not in ("seconds", "started")}
    return [_without_times(item) for item in document] if isinstance(document, list) else document


def _timeless(name: str, text: str) -> str:
    """Return a report without the places that its format documents as times."""
    if name == "json":
        return json.dumps(_without_times(json.loads(text)))
    if name == "html":
        return re.sub(r"<time>[^<]*</time>", "", text)
    if name == "junit":
        text = re.sub(r' (?:time|timestamp)="[^"]*"', "", text)
    if name == "markdown":
        text = re.sub(r"\| [^|]* \|$", "|", text, flags=re.MULTILINE)
    return re.sub(r"· [^·]* · exit", "· exit", text)


def _slower(result: RunResult) -> RunResult:
    checks = [replace(check, seconds=check.seconds * 3 + 61) for check in result.checks]
    return replace(result, checks=checks, seconds=7261.0, started="2027-01-01T00:00:00Z")


@pytest.mark.parametrize("name", FORMATS)
def test_times_are_all_that_differs(name: str) -> None:
    """Two results that differ in times only give the same bytes but for the places that are documented as times."""
    render, _ = FORMATS[name]
    first, second = render(everything()), render(_slower(everything()))
    assert first != second
    assert _timeless(name, first) == _timeless(name, second)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_but_times_is_dropped(name: str) -> None:
    """Another count, cause or size survives what the test above ignores."""
    render, _ = FORMATS[name]
    other = everything()
    other.checks[1] = replace(other.checks[1], comparisons=other.checks[1].comparisons[:1])
    assert _timeless(name, render(everything())) != _timeless(name, render(other))


def test_two_runs_give_the_same_bytes_but_for_times() -> None:
    """Two real runs: every format of the second is the first's, apart from times."""
    options = Options(reference="pypi", subject="legacy", recipes=("default",), only=("losses",), quick=True)
    first, second = run(options), run(options)
    assert first.exit_code == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.started)
    for name, (render, _) in FORMATS.items():
        assert _timeless(name, render(first)) == _timeless(name, render(second))
