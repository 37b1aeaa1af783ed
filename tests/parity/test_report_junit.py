from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from fabricated_reports import HOSTILE, everything, hostile
from fabricated_results import EQUAL, FAR, diverged, only_not_run, passing, with_comparisons
from junit_schema import ANT, JENKINS, Rule, violations

from parity.report.junit import MOST_DIVERGENCES, as_junit
from parity.results import RunResult

STARTED = "2026-11-27T02:30:00Z"


def _parsed(result: RunResult, exit_code: int | None = None) -> ET.Element:
    # Encoded, as a CI server reads it.
    return ET.fromstring(as_junit(result, exit_code).encode("utf-8"))  # noqa: S314 -- our own document


def _case(root: ET.Element, name: str) -> ET.Element:
    (case,) = [case for case in root.iter("testcase") if case.get("name") == name]
    return case


@pytest.mark.parametrize("schema", [ANT, JENKINS], ids=["ant", "jenkins"])
@pytest.mark.parametrize("result", [passing(), diverged(), only_not_run(), everything(), hostile()])
def test_the_document_is_valid_by_both_schemas(result: RunResult, schema: dict[str, Rule]) -> None:
    """Whatever a run holds, the strictest schema and Jenkins' accept it."""
    assert violations(_parsed(replace(result, started=STARTED)), schema) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (' time="0.000"', "", "lacks time"),
        (' hostname="localhost"', ' hostname=""', "hostname is ''"),
        ("<system-err />", "", "testsuite: holds"),
        ("<testsuites>", '<testsuites name="x">', "unknown attribute name"),
        ("<properties>", "<properties>text", "holds text"),
        ("2026-11-27T02:30:00", "2026-11-27T02:30:00Z", "timestamp is"),
        ("testcase", "case", "unknown element"),
    ],
)
def test_the_schema_refuses_what_it_must(before: str, after: str, expected: str) -> None:
    """The grammar that the test above relies on notices a document that Ant's schema forbids."""
    text = as_junit(replace(diverged(), started=STARTED))
    assert before in text
    broken = ET.fromstring(text.replace(before, after))  # noqa: S314 -- our own document
    assert any(expected in line for line in violations(broken, ANT))


def test_a_suite_per_family_and_a_case_per_check() -> None:
    """Families in the order of the run with their counts, then the instrument."""
    root = _parsed(diverged())
    told = [[suite.get(k) for k in ("id", "name", "tests", "failures", "errors", "skipped")] for suite in root]
    assert told == [
        ["0", "losses", "1", "0", "0", "0"],
        ["1", "masks", "2", "0", "1", "0"],
        ["2", "gradients", "2", "2", "0", "0"],
        ["3", "modules", "1", "0", "0", "1"],
        ["4", "instrument", "1", "0", "0", "0"],
    ]
    names = [case.get("name") for case in root[2].iter("testcase")]
    assert names == ["gradients.step[vitl14]", "gradients.step[default]"]
    assert {case.get("classname") for case in root[2].iter("testcase")} == {"parity.gradients"}


def test_a_divergence_is_a_failure_with_its_cause() -> None:
    """Message: counts and the first divergence; type: the causes; text: findings, places, values, and how many more."""
    (failure,) = _case(_parsed(diverged()), "gradients.step[vitl14]")
    assert failure.tag == "failure"
    assert failure.get("type") == "0005, Q3"
    message = failure.get("message") or ""
    assert message.startswith(
        "129 of 130 comparisons differ; first: gradients/backbone.cls_token: 3e-05, allowed 2e-10"
    )
    lines = (failure.text or "").splitlines()
    assert lines[:5] == [
        "one step",
        "cause 0005: official / yours = 79.50 = masked tokens per image",
        "  official: dinov2/loss/ibot_patch_loss.py:126",
        "  next: migration 0005",
        "cause Q3: the cap is 666, not 684.5",
    ]
    assert "  official: 0.79499" in lines
    assert "  yours: 0.01000" in lines
    assert lines[-1] == f"and {129 - MOST_DIVERGENCES} more, see the JSON report"


def test_a_divergence_without_a_cause_says_so() -> None:
    """Nothing is attributed by guessing; the official lines that ran are named."""
    (failure,) = _case(_parsed(with_comparisons(FAR, official=("dinov2/a.py:3",))), "losses.x[default]")
    assert failure.get("type") == "no known difference has this signature"
    assert "official: dinov2/a.py:3" in (failure.text or "")


def test_an_error_and_a_check_that_was_not_run_are_no_passes() -> None:
    """An error carries what was raised, a skipped case why it was not run."""
    root = _parsed(everything())
    (error,) = _case(root, "losses.koleo[default]")
    assert (error.tag, "ZeroDivisionError" in (error.get("message") or "")) == ("error", True)
    (skipped,) = _case(root, "modules.head[vitl14]")
    assert (skipped.tag, skipped.get("message")) == ("skipped", "no capability build_head")
    assert len(_case(root, "losses.dino[default]")) == 0


def test_a_check_run_in_part_is_told() -> None:
    """It passed, and its suite's output says what it did not do."""
    root = _parsed(everything())
    assert len(_case(root, "schedules.lr")) == 0
    (suite,) = [suite for suite in root if suite.get("name") == "schedules"]
    assert suite.findtext("system-out") == "run in part: schedules.lr: lr_at returns no warm-up"


def test_every_suite_says_what_was_compared_with_what() -> None:
    """Provenance, options and the counts of the family are properties."""
    root = _parsed(everything())
    for suite in root:
        told = {p.get("name"): p.get("value") or "" for p in suite.iter("property")}
        assert told["reference.identity"] == "modified"
        assert told["reference.modified.1"] == "dinov2/loss/koleo_loss.py line 33: differs"
        assert told["reference.notes.0"].startswith("GITHUB COULD NOT BE REACHED")
        assert (told["subject"], told["exit_code"]) == ("document", "1")
        assert told["option.recipes"] == "default, vitl14"
        assert told["attribution"] == "reference, 0005, Q3"
    told = {p.get("name"): p.get("value") or "" for p in root[3].iter("property")}
    assert (root[3].get("name"), told["family.compared"], told["family.bitwise_equal"]) == ("gradients", "131", "0")


def test_an_unsound_instrument_is_red() -> None:
    """A CI server that reads nothing but this file must not show a pass where there is no verdict."""
    root = _parsed(replace(passing(), doctor=[EQUAL, replace(FAR, name="doctor/repeat")]))
    (error,) = _case(root, "doctor/repeat")
    assert error.tag == "error"
    assert (root[-1].get("tests"), root[-1].get("errors")) == ("2", "1")


@pytest.mark.parametrize(("result", "code"), [(only_not_run(), None), (passing(), 2)])
def test_no_verdict_is_red_even_where_every_check_is_green(result: RunResult, code: int | None) -> None:
    """Nothing compared, or a report that could not be written: one error says so."""
    (error,) = _case(_parsed(result, code), "verdict")
    assert error.tag == "error"
    assert (error.get("message") or "").endswith("exit 2")


@pytest.mark.parametrize("result", [passing(), diverged(), everything()])
def test_no_case_is_added_where_the_verdict_shows(result: RunResult) -> None:
    """Parity is green and divergence red by the checks themselves."""
    assert [case for case in _parsed(result).iter("testcase") if case.get("name") == "verdict"] == []


def test_times_are_of_checks_and_suites() -> None:
    """Seconds with three decimals, as Surefire's pattern wants; the start in UTC."""
    run = replace(diverged(), started=STARTED)
    run.checks[0].seconds = 1234.56789
    suite = _parsed(run)[0]
    assert (suite.get("time"), suite[1].get("time")) == ("1234.568", "1234.568")
    assert suite.get("timestamp") == "2026-11-27T02:30:00"
    assert "timestamp" not in _parsed(diverged())[0].attrib


def test_hostile_text_stays_text() -> None:
    """Markup and characters that XML cannot hold at all come back as what was written, or as visible escapes."""
    root = _parsed(hostile())
    assert {element.tag for element in root.iter()} <= set(ANT)
    messages = [error.get("message") for error in root.iter("error")]
    assert HOSTILE[0] in messages
    assert "a\\x00b\\x1b[31m ::error::owned%0A" in messages
    assert "lone \\udc80, \\ufffe and" in messages
