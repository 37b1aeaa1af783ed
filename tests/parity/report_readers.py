"""What each form of the report says, read back from its text, so that the forms can be held against each other."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from html_reader import read

__all__ = ["Said", "from_html", "from_json", "from_junit", "from_markdown", "from_terminal"]


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


def from_json(text: str) -> Said:
    """Read a JSON report."""
    document = json.loads(text)
    counts = tuple(document["summary"][key] for key in ("compared", "within", "bitwise_equal", "checks"))
    statuses = {check["id"]: check["status"] for check in document["checks"] if check["status"] != "passed"}
    return Said(document["exit_code"], counts, tuple(document["summary"]["attribution"]), statuses)


def from_junit(text: str) -> Said:
    """Read a JUnit document."""
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


def from_html(text: str) -> Said:
    """Read a HTML page."""
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


def from_markdown(text: str) -> Said:
    """Read a Markdown summary."""
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


def from_terminal(text: str) -> Said:
    """Read a report as printed on a console that wraps nothing."""
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
