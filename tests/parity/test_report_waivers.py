from __future__ import annotations

import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from fabricated_results import CLOSE, EQUAL, FAR, diverged, passing
from rich.console import Console

from parity.report import as_annotations, as_html, as_json, as_junit, as_markdown, as_text
from parity.report.waivers import told_waiver, verdict_word
from parity.report.wording import family_summaries, verdict_line
from parity.results import CheckResult, RunResult, WaiverOutcome

HOLDS = WaiverOutcome("losses.koleo", "koleo/*", "on purpose", "issue 9", "2027-03-31", matched=2, waived=1)
STALE = replace(HOLDS, waived=0, problem="no longer needed")
LOST = replace(HOLDS, matched=0, waived=0, problem="matches nothing")
OLD = replace(HOLDS, waived=0, problem="expired")
UNJUDGED = replace(HOLDS, matched=0, waived=0)


def _waived_check() -> CheckResult:
    comparisons = [EQUAL, replace(FAR, waived="on purpose")]
    return CheckResult("losses.koleo", "losses", "L1", "waived", "KoLeo", comparisons=comparisons)


def _run(*waivers: WaiverOutcome) -> RunResult:
    """The passing run, and a check with one passed and one waived comparison."""
    run = passing()
    return replace(run, checks=[*run.checks, _waived_check()], waivers=list(waivers))


def _text(run: RunResult) -> str:
    return as_text(run, Console(file=io.StringIO(), width=200))


def test_waived_is_counted_apart_from_passed() -> None:
    """6 comparisons, 5 within tolerance, 1 waived; the verdict's word is not parity's."""
    assert verdict_line(_run(HOLDS)) == (
        "PARITY BUT FOR WAIVERS: 6 comparisons, 5 within tolerance, 4 bitwise equal, 1 waived, 0 not run "
        "· 4 min 12 s · exit 0"
    )
    (losses, masks) = family_summaries(_run(HOLDS))
    assert (losses.checks, losses.passed, losses.waived_checks, losses.waived) == (2, 1, 1, 1)
    assert losses.verdict == "passed, 1 waived"
    assert masks.verdict == "passed"


def test_a_family_of_waived_checks_alone_has_not_passed() -> None:
    """Its verdict is waived."""
    (family,) = family_summaries(replace(passing(), checks=[_waived_check()]))
    assert family.verdict == "waived, 1 waived"


@pytest.mark.parametrize(
    ("waiver", "told"),
    [
        (HOLDS, "losses.koleo koleo/*: waives 1 of 2 until 2027-03-31 (on purpose; issue 9)"),
        (STALE, "NO LONGER NEEDED, 2 of 2 pass: delete it"),
        (LOST, "MATCHES NOTHING"),
        (OLD, "EXPIRED on 2027-03-31"),
        (UNJUDGED, "not judged in this run until 2027-03-31"),
    ],
)
def test_each_waiver_is_told_with_what_became_of_it(waiver: WaiverOutcome, told: str) -> None:
    """Its patterns, its state and its reason, in terminal and Markdown alike."""
    assert told in told_waiver(waiver)
    assert told in _text(_run(waiver))
    assert "### Waivers (1, 1 comparison waived, which is not passed)" in as_markdown(_run(waiver))


@pytest.mark.parametrize(
    ("waiver", "word", "code"),
    [(STALE, "WAIVERS FAILED", 1), (OLD, "WAIVERS FAILED", 1), (LOST, "NO VERDICT", 2), (UNJUDGED, "PARITY", 0)],
)
def test_a_waiver_alone_can_fail_a_run(waiver: WaiverOutcome, word: str, code: int) -> None:
    """Where all passes: the last line says that it is the waiver, and how many."""
    run = replace(passing(), waivers=[waiver])
    assert (verdict_word(run), run.exit_code) == (word, code)
    if waiver.problem:
        assert f"1 waiver {waiver.problem}" in verdict_line(run)
    assert "causes" not in verdict_line(run)


def test_a_divergence_keeps_its_word() -> None:
    """DIVERGED with causes, whatever waivers say besides."""
    line = verdict_line(replace(diverged(), waivers=[STALE]))
    assert line.startswith("DIVERGED: ")
    assert "1 waiver no longer needed, causes: 0005, Q3" in line


def test_json_has_waivers_and_what_they_waived() -> None:
    """Each with its outcome; the waived comparisons are no divergences."""
    document = json.loads(as_json(_run(HOLDS)))
    assert document["waivers"][0]["reason"] == "on purpose"
    assert document["waivers"][0]["waived"] == 1
    assert document["summary"]["waived"] == 1
    (check,) = (c for c in document["checks"] if c["status"] == "waived")
    assert (check["diverged"], check["waived"], check["divergences"]) == (0, 1, [])
    assert check["waived_divergences"][0]["waived"] == "on purpose"
    assert document["exit_code"] == 0


def test_without_waivers_nothing_is_said_of_them() -> None:
    """The section stands only where a file was given."""
    for text in (_text(passing()), as_markdown(passing())):
        assert "aiver" not in text


def test_close_is_not_waived() -> None:
    """A comparison that passed is not touched by the reason of a waiver."""
    check = CheckResult("a.b", "a", "L1", "passed", "", comparisons=[replace(CLOSE, waived="x")])
    assert (check.waived, check.diverged) == ([], [])


def test_junit_never_calls_a_waived_check_passed() -> None:
    """It is skipped, with the reason, and the waivers are a suite in which one that failed is a failure."""
    root = ElementTree.fromstring(as_junit(_run(HOLDS, STALE)))  # noqa: S314 - our own
    (check,) = root.findall(".//testcase[@name='losses.koleo']")
    skipped = check.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "1 of 2 comparisons waived: on purpose"
    (suite,) = root.findall("testsuite[@name='waivers']")
    assert [(case.get("name"), len(case)) for case in suite.iter("testcase")] == [
        ("losses.koleo koleo/*", 0),
        ("losses.koleo koleo/*", 1),
    ]
    failure = suite.find(".//failure")
    assert failure is not None
    assert (failure.get("type"), suite.get("failures")) == ("no longer needed", "1")


def test_a_workflow_is_told_of_a_waiver_that_failed() -> None:
    """One annotation for it, and none for one that holds."""
    lines = as_annotations(_run(HOLDS, OLD)).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("::error title=parity%3A waiver expired::losses.koleo koleo/*: EXPIRED on 2027-03-31")


def test_the_page_lists_waivers_and_marks_the_ones_that_failed() -> None:
    """Under the count of what they waive."""
    page = as_html(_run(HOLDS, LOST))
    assert "Waivers (2, 1 comparison waived, which is not passed)" in page
    assert page.count("MATCHES NOTHING") == 1
    assert "MATCHES NOTHING" in page.split('<li class="error">losses.koleo')[1]
    assert "Waivers (" not in as_html(passing())
