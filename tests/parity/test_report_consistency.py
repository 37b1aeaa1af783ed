"""Every form of a report says the same of a run, and two runs that differ in times differ in nothing else."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol
from xml.etree import ElementTree as ET

import pytest
from fabricated_reports import everything
from fabricated_results import diverged, only_not_run, passing
from html_reader import read
from rich.console import Console

from parity.report import as_annotations, as_html, as_json, as_junit, as_markdown, as_text
from parity.report.github import MOST_ANNOTATIONS
from parity.results import RunResult
from parity.run import Options, run


@dataclass(frozen=True)
class Said:
    """What a report says, read back from its text.

    Attributes:
        exit_code: the code at the end of the verdict, or told elsewhere.
        counts: compared, within tolerance, bitwise equal, checks.
        causes: ids in their order.
        statuses: of every check that did not pass.
    """

    exit_code: int
    counts: tuple[int, ...]
    causes: tuple[str, ...]
    statuses: dict[str, str]


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _verdict(line: str) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
    """Return exit code, counts and causes of a verdict line, from whichever format."""
    (code,) = re.findall(r"exit (\d+)$", line)
    if "nothing was compared" in line:
        return int(code), (0, 0, 0), ()
    found = re.search(r"([\d,]+) comparisons?, ([\d,]+) within tolerance, ([\d,]+) bitwise equal", line)
    assert found
    causes = re.findall(r"causes: ([\w, ]+)", line)
    ids = tuple(causes[0].split(", ")) if causes and causes[0] != "not attributed" else ()
    return int(code), tuple(map(_number, found.groups())), ids


def _expanded(compact: str) -> list[str]:
    """Return the ids of `a.b[x, y], c.d`."""
    ids = []
    for name, recipes in re.findall(r"([\w.]+)(?:\[([^\]]*)\])?(?:, |$)", compact):
        ids += [f"{name}[{recipe}]" for recipe in recipes.split(", ")] if recipes else [name]
    return ids


def _from_json(text: str) -> Said:
    document = json.loads(text)
    counts = tuple(document["summary"][key] for key in ("compared", "within", "bitwise_equal", "checks"))
    statuses = {check["id"]: check["status"] for check in document["checks"] if check["status"] != "passed"}
    return Said(document["exit_code"], counts, tuple(document["summary"]["attribution"]), statuses)


def _from_junit(text: str) -> Said:
    root = ET.fromstring(text.encode())  # noqa: S314 -- our own document
    families = [suite for suite in root if suite.get("name") != "instrument"]
    words = {"failure": "diverged", "error": "error", "skipped": "not_run"}
    cases = [case for suite in families for case in suite.iter("testcase")]
    statuses = {case.get("name") or "": words[case[0].tag] for case in cases if len(case)}
    told = [{p.get("name") or "": p.get("value") or "" for p in suite.iter("property")} for suite in root]
    sums = [sum(int(t[f"family.{key}"]) for t in told[:-1]) for key in ("compared", "within", "bitwise_equal")]
    causes = tuple(told[0]["attribution"].split(", ")) if told[0]["attribution"] else ()
    assert _verdict(told[0]["verdict"])[1] == tuple(sums)
    assert sum(int(suite.get("tests") or "") for suite in families) == len(cases)
    return Said(int(told[0]["exit_code"]), (*sums, len(cases)), causes, statuses)


def _from_html(text: str) -> Said:
    page = read(text)
    code, counts, _ = _verdict(page.one("h1").text)
    assert page.one("h1").attributes["data-exit-code"] == str(code)
    rows = page.one("table", id="all-checks").all("tr")[1:]
    statuses = {r.all("code")[0].text: r.all("span")[0].attributes["data-status"] for r in rows}
    cells = [[cell.text for cell in row.all("td")] for row in page.one(id="families").all("tr")[1:]]
    assert counts[0] == sum(_number(row[2]) for row in cells)
    causes = tuple(node.attributes["data-cause"] for node in page.all("h3") if "data-cause" in node.attributes)
    unpassed = {id_: status for id_, status in statuses.items() if status != "passed"}
    return Said(code, (*counts, len(rows)), causes, unpassed)


def _from_markdown(text: str) -> Said:
    lines = text.replace("\\", "").splitlines()
    code, counts, _ = _verdict(lines[0])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    families = [row for row in rows if len(row) == 8 and row[1].replace(",", "").isdigit()]
    statuses = {}
    for row in (row for row in rows if len(row) == 7 and row[0].startswith("`")):
        first = row[0].strip("`")
        statuses[first] = "diverged"
        for recipe in re.findall(r"(\w+) \([\d,]+ of [\d,]+\)", row[2]):
            statuses[f"{first.split('[')[0]}[{recipe}]"] = "diverged"
    section = ""
    for line in lines:
        section = line if line.startswith("###") else section
        found = re.match(r"- `([^`]+)`: ", line)
        if found and section.startswith(("### Errors", "### Not run")):
            status = "error" if "Errors" in section else "not_run"
            statuses |= dict.fromkeys(_expanded(found[1]), status)
    causes = tuple(re.findall(r"^- \*\*(?!no cause)(.+?)\*\*: ", "\n".join(lines), re.MULTILINE))
    return Said(code, (*counts, sum(_number(row[1]) for row in families)), causes, statuses)


def _from_terminal(text: str) -> Said:
    lines = text.splitlines()
    code, counts, _ = _verdict(lines[-1])
    statuses = {}
    end = next(place for place, line in enumerate(lines) if line.startswith("causes"))
    families = [line.split() for line in lines[:end] if line.startswith(" ")]
    last, section = "", ""
    for line in lines:
        diverged = re.match(r"DIVERGED  ([\w.]+(?:\[[^\]]+\])?) \(L", line)
        if diverged:
            last = diverged[1]
            statuses[last] = "diverged"
        elif "also under " in line:
            for recipe in re.findall(r"(\w+) \([\d,]+ of [\d,]+\)", line):
                statuses[f"{last.split('[')[0]}[{recipe}]"] = "diverged"
        section = line if line and not line.startswith(" ") else section
        found = re.match(r"  - ((?:[\w.]+(?:\[[^\]]+\])?(?:, )?)+): ", line)
        if found and section.startswith(("errors (", "not run (")):
            statuses |= dict.fromkeys(_expanded(found[1]), "error" if section[0] == "e" else "not_run")
    causes = tuple(re.findall(r"^(\S+)  [\d,]+ checks?, [\d,]+ diverging", text, re.MULTILINE))
    checks = sum(_number(row[1]) for row in families if len(row) > 2 and row[1].isdigit())
    return Said(code, (*counts, checks), causes, statuses)


def _as_wide_text(result: RunResult, exit_code: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=2000, highlight=False, markup=False, emoji=False)
    return as_text(result, console, exit_code)


class Render(Protocol):
    """Makes a report."""

    def __call__(self, result: RunResult, exit_code: int | None = None, /) -> str:
        """Return its text."""


FORMATS: dict[str, tuple[Render, Callable[[str], Said]]] = {
    "json": (as_json, _from_json),
    "junit": (as_junit, _from_junit),
    "html": (as_html, _from_html),
    "markdown": (as_markdown, _from_markdown),
    "terminal": (_as_wide_text, _from_terminal),
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
    assert parse(render(result)) == _from_json(as_json(result))
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
    said = _from_json(as_json(everything()))
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
