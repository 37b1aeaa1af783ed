from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fabricated_results import CLOSE, EQUAL, FAR, diverged, only_not_run, passing, with_comparisons

from parity.report import wording
from parity.results import CheckResult, Comparison, Finding


def test_worst_prefers_a_failure_to_a_large_pass() -> None:
    """An exact comparison that fails is worse than a pass near its limit."""
    exact = replace(EQUAL, passed=False, error=1e-9)
    near = replace(CLOSE, error=8e-16)
    assert wording.worst([near, exact, EQUAL]) is exact


def test_worst_treats_nan_as_infinitely_wrong() -> None:
    """A failing NaN outranks every finite error, wherever it stands in the list."""
    nan = replace(FAR, error=math.nan)
    assert wording.worst([nan, FAR]) is nan
    assert wording.worst([FAR, nan]) is nan


def test_worst_of_nothing_is_nothing() -> None:
    """Comparisons without a size have no worst one."""
    assert wording.worst([Comparison("keys", "T0", passed=False, bitwise=False)]) is None


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (CLOSE, 0.25),
        (EQUAL, 0.0),
        (replace(EQUAL, passed=False, error=1.0), math.inf),
        (replace(FAR, error=math.nan), math.inf),
        (Comparison("keys", "T0", passed=True, bitwise=True), None),
        (Comparison("keys", "T0", passed=False, bitwise=False), math.inf),
    ],
)
def test_ratio_is_error_over_allowed(comparison: Comparison, expected: float | None) -> None:
    """Error over allowed: 2e-16 / 8e-16 = 0.25, infinite beyond an exact rule."""
    assert wording.ratio(comparison) == expected


def test_largest_counts_nan_as_largest() -> None:
    """NaN must not hide behind a comparison with it being false."""
    assert math.isnan(wording.largest([1.0, math.nan, 2.0, None]) or 0.0)
    assert wording.largest([None]) is None


def test_difference_states_both_sizes() -> None:
    """The size stands against the allowed size, with their quotient 3e-5 / 2e-10 = 150,000; few ulp are told."""
    assert wording.difference(FAR) == "3e-05, allowed 2e-10 (150,000 times as much)"
    assert wording.difference(replace(FAR, max_ulp=12.0)).endswith("(150,000 times as much), 12 ulp")
    assert "equality is required" in wording.difference(replace(EQUAL, passed=False, error=None))


def test_family_summary_counts_by_status() -> None:
    """A family's row counts each status once, and comparisons over all its checks."""
    masks = next(f for f in wording.family_summaries(diverged()) if f.family == "masks")
    assert (masks.checks, masks.passed, masks.errors, masks.compared, masks.bitwise_equal) == (2, 1, 1, 2, 2)
    assert masks.verdict == "ERROR"


def test_not_run_is_never_passed() -> None:
    """A family of which some checks were not run says how many."""
    run = passing()
    skipped = CheckResult("losses.koleo[default]", "losses", "L1", "not_run", "KoLeo")
    summary = wording.family_summaries(replace(run, checks=[*run.checks, skipped]))[0]
    assert summary.verdict == "passed, 1 not run"
    assert wording.family_summaries(only_not_run())[0].verdict == "not run"


def test_passed_without_comparisons_is_not_passed() -> None:
    """A check that calls itself passed but compared nothing proves nothing."""
    empty = CheckResult("losses.x", "losses", "L1", "passed", "x")
    assert wording.family_summaries(replace(passing(), checks=[empty]))[0].verdict == "nothing compared"


def test_verdict_line_of_parity() -> None:
    """The last line counts comparisons, tolerance, bits and time, and repeats the exit code."""
    assert wording.verdict_line(passing()) == (
        "PARITY: 4 comparisons, 4 within tolerance, 3 bitwise equal, 0 not run · 4 min 12 s · exit 0"
    )


def test_verdict_line_of_divergence_names_the_causes() -> None:
    """4 + 130 + 1 comparisons, of which 5 are within tolerance; causes are sorted, numbered ones first."""
    assert wording.verdict_line(diverged()) == (
        "DIVERGED: 135 comparisons, 5 within tolerance, 3 bitwise equal, 1 not run, 1 error, "
        "causes: 0005, Q3 · 4 min 12 s · exit 1"
    )


def test_verdict_line_without_causes_says_so() -> None:
    """A divergence that nothing explains is called not attributed."""
    assert "causes: not attributed" in wording.verdict_line(with_comparisons(FAR))


def test_verdict_line_counts_what_has_no_cause() -> None:
    """Beside one attributed check, one without a finding and one whose finding names no known difference."""
    run = with_comparisons(FAR, findings=[Finding("0003", "s")])
    bare = replace(run.checks[0], id="losses.y", findings=[])
    vague = replace(run.checks[0], id="losses.z", findings=[Finding("", "lr is twice official's")])
    line = wording.verdict_line(replace(run, checks=[*run.checks, bare, vague]))
    assert "causes: 0003; 2 checks not attributed ·" in line
    assert "causes: 0003 ·" in wording.verdict_line(run)


def test_verdict_line_when_nothing_was_compared() -> None:
    """Zero comparisons are no parity."""
    line = wording.verdict_line(only_not_run())
    assert line.startswith("NO VERDICT: nothing was compared, 1 not run")
    assert line.endswith("exit 2")


def test_next_step_falls_back_to_explain() -> None:
    """A finding without a fix still says where to read on."""
    assert wording.next_step(Finding("Q3", "s")) == "`python -m parity explain Q3`"
    assert wording.next_step(Finding("0003", "s", "do it")) == "do it"


@pytest.mark.parametrize("id_", ["", "reference", "document"])
def test_next_step_sends_nobody_to_a_text_that_is_not_there(id_: str) -> None:
    """Only numbered differences and quirks have a text of their own."""
    assert wording.next_step(Finding(id_, "s")) == ""


def test_causes_come_in_the_order_of_work() -> None:
    """An edited reference, differences, quirks by number and not by letter, the rest by name, not attributed last."""
    ids = ["", "reference", "Q10", "document", "0007", "Q3", "0001"]
    assert sorted(ids, key=wording.cause_order) == ["reference", "0001", "0007", "Q3", "Q10", "document", ""]


def test_recipes_come_from_the_ids() -> None:
    """The recipe stands in brackets at the end of a check's id."""
    assert wording.recipes_of(diverged()) == ["default", "vitl14"]
    assert wording.recipe_of(CheckResult("files.identity", "files", "L0", "passed", "x")) == ""
