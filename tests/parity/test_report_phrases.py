from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fabricated_results import CLOSE, EQUAL, FAR, diverged, passing, with_comparisons

from parity.report import phrases
from parity.report.grouping import Cause, gather_causes, gather_evidence
from parity.report.wording import family_summaries
from parity.results import CheckResult, Comparison, Finding


def test_a_cause_tells_how_much_it_explains_and_with_whom() -> None:
    """129 + 1 comparisons diverge in two checks that name 0005 and Q3 both."""
    assert phrases.explained(gather_causes(diverged())[0]) == (
        "2 checks, 130 diverging comparisons (all shared with Q3)"
    )


def test_a_cause_that_shares_some_says_how_many() -> None:
    """The share is a number where it is not all, and absent where it is none."""
    cause = Cause("0003", (), (), 1, 1, 0, ())
    assert phrases.explained(cause) == "1 check, 1 diverging comparison"
    some = replace(cause, checks=2, comparisons=1500, shared=40, others=("0002", ""))
    assert phrases.explained(some) == (
        "2 checks, 1,500 diverging comparisons (40 shared with 0002, one not attributed)"
    )


def test_steps_leave_out_the_command_of_the_title() -> None:
    """The command stands in the section's title; another id's command and other steps stay."""
    steps = ("migration 0003 (masks): python -m parity explain 0003", "see: python -m parity explain 0004")
    assert phrases.steps(Cause("0003", (), steps, 1, 1, 0, ())) == [
        "migration 0003 (masks)",
        "see: python -m parity explain 0004",
    ]


def _under(*findings: list[Finding]) -> str:
    run = with_comparisons(FAR)
    names = ("default", "vitl14", "vitg14")
    checks = [
        replace(run.checks[0], id=f"losses.x[{name}]", findings=found)
        for name, found in zip(names, findings, strict=False)
    ]
    return phrases.named_causes(gather_evidence(replace(run, checks=checks))[0])


def test_causes_name_the_recipes_that_name_them() -> None:
    """A cause of some recipes only is not told of all, and a recipe without one is told."""
    masks, loss, vague = Finding("0003", "m"), Finding("0005", "l"), Finding("", "v")
    assert _under([masks], [masks]) == "cause 0003"
    assert _under([masks, loss], [loss, masks]) == "causes 0003, 0005"
    assert _under([masks, loss], [loss]) == "causes 0003 (under default), 0005"
    assert _under([vague]) == "cause one not attributed"
    assert _under([], [masks], []) == (
        "causes 0003 (under vitl14), no known difference has this signature (under default, vitg14)"
    )
    assert _under([], []) == ""


def test_other_recipes_are_counts() -> None:
    """Of the recipes after the first, only the number of differing comparisons is told."""
    assert phrases.also_under(gather_evidence(diverged())[0]) == "default (1 of 1)"


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (FAR, "3e-05, allowed 2e-10 (150,000 times as much); index (0, 0, 7)"),
        (Comparison("k", "T0", passed=False, bitwise=False, note="4 of 9 differ"), "not equal; 4 of 9 differ"),
        (Comparison("k", "T0", passed=False, bitwise=False), "not equal, where equality is required"),
    ],
)
def test_a_size_is_told_with_its_place(comparison: Comparison, expected: str) -> None:
    """Size against allowed size where there is one, and where the sides differ."""
    assert phrases.sized(comparison) == expected


def test_a_difference_in_a_list_is_short() -> None:
    """Size and allowed size, or the last part of the note, which says where."""
    assert phrases.short(FAR) == "3e-05, allowed 2e-10"
    noted = Comparison("k", "T0", passed=False, bitwise=False, note="train.py:172, left to right; 4 of 9 differ")
    assert phrases.short(noted) == "4 of 9 differ"
    assert phrases.short(replace(noted, note="")) == "not equal"


def _unrun(id_: str, reason: str) -> CheckResult:
    return CheckResult(id_, "losses", "L1", "not_run", "t", reason=reason)


def test_reasons_are_shared_beyond_the_capability() -> None:
    """Two capabilities lacking for one reason are one entry without their names; one alone keeps its name."""
    checks = [_unrun("losses.a", "dino_loss: not proposed"), _unrun("losses.b", "koleo_loss: not proposed")]
    assert phrases.shared_reasons([*checks, _unrun("losses.c", "sinkhorn: else")]) == {
        "not proposed": ["losses.a", "losses.b"],
        "sinkhorn: else": ["losses.c"],
    }


def test_reasons_of_errors_are_kept_whole() -> None:
    """The name before a colon is who failed, not a capability."""
    failed = replace(_unrun("losses.a", "legacy: boom"), status="error")
    other = replace(_unrun("losses.b", "port: boom"), status="error")
    assert list(phrases.shared_reasons([failed, other])) == ["legacy: boom", "port: boom"]
    assert list(phrases.shared_reasons([replace(failed, reason="")])) == ["no reason given"]


@pytest.mark.parametrize(
    ("ulp", "expected"),
    [(None, "-"), (3.0, "3"), (1e6, "1e+06"), (1.1e6, ">1e6"), (8.29e15, ">1e6"), (math.inf, "not finite")],
)
def test_the_table_shows_ulps_up_to_a_million(ulp: float | None, expected: str) -> None:
    """Beyond a million, units in the last place say nothing; beyond all numbers, that is said."""
    summary = family_summaries(with_comparisons(replace(CLOSE, max_ulp=ulp)))[0]
    assert phrases.worst_ulp(summary) == expected


def test_nan_ulps_are_not_finite() -> None:
    """NaN is no number of units."""
    assert phrases.worst_ulp(family_summaries(with_comparisons(replace(CLOSE, max_ulp=math.nan)))[0]) == "not finite"


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (CLOSE, "0.25"),
        (replace(FAR, error=2e-8), "100"),
        (FAR, ">1e4"),
        (replace(FAR, error=math.nan), "not finite"),
        (replace(FAR, error=math.inf), "not finite"),
        (replace(EQUAL, passed=False, error=1.0), "not exact"),
    ],
)
def test_the_table_shows_ratios_up_to_ten_thousand(comparison: Comparison, expected: str) -> None:
    """2e-16 / 8e-16 = 0.25 and 2e-8 / 2e-10 = 100; 150,000 is beyond; exact rules have no quotient."""
    assert phrases.worst_ratio(family_summaries(with_comparisons(comparison))[0]) == expected


def test_without_sizes_there_is_no_ratio() -> None:
    """Masks that are equal have no size to divide."""
    assert phrases.worst_ratio(family_summaries(passing())[1]) == "-"
