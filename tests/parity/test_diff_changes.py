from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated_diffs import NAMES, base, failing, with_first, written
from fabricated_reports import everything, large
from fabricated_results import CLOSE, EQUAL, FAR, MODIFIED

from parity.diff.changes import Difference, compare_reports
from parity.diff.load import INSTRUMENT, load_report
from parity.results import RunResult, Status

Edit = Callable[[RunResult], RunResult]
A, B, C = base().checks[0].comparisons


@pytest.fixture
def differ(tmp_path: Path) -> Callable[[RunResult, RunResult], Difference]:
    """Compare two results as files."""

    def compare(before: RunResult, after: RunResult) -> Difference:
        return compare_reports(*map(load_report, written(tmp_path, before, after)))

    return compare


Compare = Callable[[RunResult, RunResult], Difference]


@pytest.mark.parametrize("result", [base(), everything(), large(1200, fail_every=7)])
def test_a_run_does_not_differ_from_itself(differ: Compare, result: RunResult) -> None:
    """Nor from the same run at another time and speed: nothing differs, nothing is worse."""
    slower = replace(result, seconds=1e4, started="2027-01-01T00:00:00Z")
    slower.checks[0].seconds = 99.0
    difference = differ(result, slower)
    assert difference.empty
    assert (difference.reasons, difference.exit_code) == ([], 0)


def test_settings_that_differ_are_named(differ: Compare) -> None:
    """Provenance, subject, environment and options, by dotted name; they alone make nothing worse."""
    other = replace(base(), subject="my fork", reference=MODIFIED, environment={"torch": "2.15.0"})
    other = replace(other, options={"quick": False, "only": [], "seeds": 5})
    difference = differ(base(), other)
    told = {name: (a, b) for name, a, b in difference.settings}
    assert told["subject"] == ("port", "my fork")
    assert told["reference.identity"] == ("verified", "modified")
    assert told["environment.torch"] == ("2.14.1", "2.15.0")
    assert told["environment.threads"] == ("2", None)
    assert told["options.quick"] == (True, False)
    assert told["options.seeds"] == (None, 5)
    assert "options.only" not in told
    assert difference.exit_code == 0
    assert not difference.empty


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda run: with_first(run, failing(A), B, C), "1 comparison newly fails"),
        (lambda run: with_first(run, failing(A), failing(B), C), "2 comparisons newly fail"),
        (lambda run: with_first(run, B, C), "1 comparison is missing"),
        (lambda run: with_first(run, replace(A, name="losses/new"), B, C), "1 comparison is missing"),
        (lambda run: with_first(run, status="error", reason="x"), "1 check passed and does not any more"),
        (lambda run: with_first(run, status="not_run", reason="x"), "1 check passed and does not any more"),
        (lambda run: replace(run, checks=run.checks[1:]), "1 check is missing"),
        (lambda run: replace(run, checks=[]), "2 checks are missing"),
        (lambda run: replace(run, doctor=[replace(FAR, name="losses/dino", tier="T0")]), "1 comparison newly fails"),
        (lambda run: replace(run, doctor=[]), "1 check is missing"),
    ],
)
def test_what_passed_and_does_not_is_worse(differ: Compare, edit: Edit, reason: str) -> None:
    """It diverges, is not compared, raises, is not run, is not there, or the instrument is unsound: code 1."""
    difference = differ(base(), edit(base()))
    assert reason in difference.reasons
    assert difference.exit_code == 1


@pytest.mark.parametrize("status", ["error", "not_run"])
def test_a_diverged_check_that_cannot_be_made_any_more_is_worse(differ: Compare, status: Status) -> None:
    """Part of it passed; that part is lost. Where nothing of it had passed, nothing is."""
    before = with_first(base(), failing(A), B, C)
    difference = differ(before, with_first(base(), status=status, reason="x"))
    assert difference.reasons == ["1 check passed and does not any more"]
    nothing = with_first(base(), failing(A), failing(B), failing(C))
    assert differ(nothing, with_first(base(), status=status, reason="x")).exit_code == 0


@pytest.mark.parametrize(
    "edit",
    [
        lambda run: run,
        lambda run: with_first(run, A, B, replace(C, bitwise=True)),
        lambda run: with_first(run, replace(CLOSE, name=A.name), B, C),
        lambda run: with_first(run, A, B, replace(C, error=7e-16)),
        lambda run: with_first(run, A, B, C, replace(A, name="losses/new")),
        lambda run: with_first(run, C, B, A),
        lambda run: replace(run, checks=[*run.checks, replace(run.checks[0], id="losses.z")]),
        lambda run: replace(run, checks=run.checks[::-1]),
        lambda run: with_first(run, A, B, C, reason="in part"),
    ],
)
def test_what_still_passes_is_not_worse(differ: Compare, edit: Edit) -> None:
    """More, less exact within tolerance, in another order: code 0."""
    difference = differ(base(), edit(base()))
    assert (difference.reasons, difference.exit_code) == ([], 0)


def test_the_other_way_round_it_is_better(differ: Compare) -> None:
    """What failed and passes now is told, and is not worse."""
    difference = differ(with_first(base(), failing(A), B, C), base())
    assert [(c.check, c.name) for c in difference.passing] == [("losses.x[default]", f"{NAMES[0]} (T1)")]
    assert [(a.status, b.status) for a, b in difference.statuses] == [("diverged", "passed")]
    assert difference.exit_code == 0


def test_parity_that_is_lost_is_worse_whatever_the_reason(differ: Compare) -> None:
    """A was parity; B diverges in a check that A did not make. Where A was none, that alone is not worse."""
    new = replace(base().checks[0], id="losses.new", comparisons=[FAR], status="diverged")
    after = replace(base(), checks=[*base().checks, new])
    assert differ(base(), after).reasons == ["A was parity and B ended with exit code 1"]
    before = with_first(base(), failing(A), B, C)
    assert differ(before, with_first(after, failing(A), B, C)).exit_code == 0


def test_bits_that_are_lost_are_told(differ: Compare) -> None:
    """A comparison that was equal bit for bit and is within tolerance now, and the reverse."""
    difference = differ(base(), with_first(base(), replace(CLOSE, name=A.name), B, replace(C, bitwise=True)))
    assert [c.name for c in difference.lost] == [f"{NAMES[0]} (T1)"]
    assert [c.name for c in difference.gained] == [f"{NAMES[2]} (T1)"]
    assert difference.failing == ()


def test_growth_is_ordered_by_what_is_eaten_of_the_allowance(differ: Compare) -> None:
    """0 to 0.25, 0.25 to 0.75 and 0 to infinity: the largest step first; shrinking is no growth."""
    grown = differ(
        base(),
        with_first(
            base(),
            replace(CLOSE, name=A.name),
            replace(CLOSE, name=B.name, error=math.inf, passed=False),
            replace(C, error=6e-16),
        ),
    ).growths
    assert [(g.change.name, g.before, g.after) for g in grown] == [
        (f"{NAMES[1]} (T1)", 0.0, math.inf),
        (f"{NAMES[2]} (T1)", 0.25, 0.75),
        (f"{NAMES[0]} (T1)", 0.0, 0.25),
    ]
    assert differ(base(), with_first(base(), A, B, replace(C, error=1e-16))).growths == ()


def test_a_nan_is_growth_without_end(differ: Compare) -> None:
    """NaN counts as larger than everything, and NaN after NaN does not grow."""
    nan = replace(C, error=math.nan, passed=False)
    assert [g.after for g in differ(base(), with_first(base(), A, B, nan)).growths] == [math.inf]
    assert differ(with_first(base(), A, B, nan), with_first(base(), A, B, nan)).growths == ()


def test_names_that_repeat_are_matched_in_their_order(differ: Compare) -> None:
    """The second of three comparisons of one name is the second on both sides."""
    same = [replace(A, name="again")] * 3
    difference = differ(with_first(base(), *same), with_first(base(), same[0], failing(same[1]), same[2]))
    assert [c.name for c in difference.failing] == ["again (T1)"]
    fewer = differ(with_first(base(), *same), with_first(base(), *same[:2]))
    assert [c.name for c in fewer.missing] == ["again (T1)"]


def test_the_same_name_under_another_rule_is_another_comparison(differ: Compare) -> None:
    """A subject that no longer claims equal bits is judged by size alone: the exact comparisons are missing."""
    exact = replace(A, tier="T0")
    difference = differ(with_first(base(), exact, A, B, C), with_first(base(), A, B, C))
    assert [c.name for c in difference.missing] == [f"{NAMES[0]} (T0)"]
    assert difference.failing == difference.added == ()


def test_a_check_that_was_not_made_is_told_once(differ: Compare) -> None:
    """Its comparisons are not listed as missing, one by one, beside it."""
    difference = differ(base(), with_first(base(), status="error", reason="raised"))
    assert difference.missing == ()
    assert [b.reason for _, b in difference.statuses] == ["raised"]


def test_self_checks_are_compared(differ: Compare) -> None:
    """An instrument that became unsound is a change of status of its own."""
    unsound = replace(base(), doctor=[replace(EQUAL, passed=False, bitwise=False)])
    ((before, after),) = differ(base(), unsound).statuses
    assert (before.id, before.status, after.status) == (INSTRUMENT, "passed", "error")
