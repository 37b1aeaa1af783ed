from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from fabricated_reports import everything, hostile, large
from fabricated_results import CLOSE, EQUAL, FAR, diverged, passing, with_comparisons
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.report.json_report import as_json
from parity.report.records import NamePool, Record, number_of, records_of
from parity.results import Comparison, RunResult

sizes = st.none() | st.floats(allow_nan=False)
comparisons = st.builds(
    Comparison,
    name=st.sampled_from(["a", "b", "c/d", "ä"]),
    tier=st.sampled_from(["T0", "T1"]),
    passed=st.booleans(),
    bitwise=st.booleans(),
    error=sizes,
    allowed=sizes,
)


def _kept(comparison: Comparison) -> Record:
    if comparison.passed and comparison.bitwise:
        return Record(comparison.name, comparison.tier)
    return Record(
        comparison.name, comparison.tier, comparison.passed, comparison.bitwise, comparison.error, comparison.allowed
    )


def _read_back(result: RunResult) -> list[list[Record]]:
    document = json.loads(as_json(result))
    return [records_of(check, document["names"]) for check in document["checks"]]


@settings(max_examples=50)
@given(st.lists(comparisons, max_size=12), st.lists(comparisons, max_size=12))
def test_comparisons_come_back_in_order(first: list[Comparison], second: list[Comparison]) -> None:
    """Whatever repeats and wherever, names, verdicts and sizes survive the way through JSON."""
    run = with_comparisons(*first)
    run = replace(run, checks=[run.checks[0], replace(run.checks[0], id="losses.y", comparisons=second)])
    assert _read_back(run) == [[_kept(c) for c in made] for made in (first, second)]


@pytest.mark.parametrize("result", [passing(), diverged(), everything(), large(1200, fail_every=5)])
def test_whole_runs_come_back(result: RunResult) -> None:
    """Every comparison of every check, by name."""
    for records, check in zip(_read_back(result), result.checks, strict=True):
        assert [repr(r) for r in records] == [repr(_kept(c)) for c in check.comparisons]


def test_names_come_back_as_they_are_printed() -> None:
    """Control characters and other scripts survive; JSON holds them."""
    names = [record.name for record in _read_back(hostile())[0]]
    assert names == [check.name for check in hostile().checks[0].comparisons]


def test_names_that_come_again_take_one_run() -> None:
    """Twelve checks of equal names share one list of them."""
    pool = NamePool()
    runs = [pool.add([replace(EQUAL, name=f"p{n}") for n in range(1000)]) for _ in range(12)]
    assert runs == [[[0, 1000]]] * 12
    assert len(pool.names) == 1000


def test_runs_break_where_the_order_does() -> None:
    """By hand: b a after a b are places 1, 0; then a new name is 2."""
    pool = NamePool()
    assert pool.add([replace(EQUAL, name=n) for n in "ab"]) == [[0, 2]]
    assert pool.add([replace(EQUAL, name=n) for n in "bac"]) == [[1, 1], [0, 1], [2, 1]]
    # The same name under another rule is another comparison.
    assert pool.add([replace(CLOSE, name="a")]) == [[3, 1]]
    assert pool.names == [["T0", "a"], ["T0", "b"], ["T0", "c"], ["T1", "a"]]


def test_the_json_of_a_large_run_is_small() -> None:
    """12,000 equal comparisons of 1,000 names, which as one record each would be 3 MB, take less than 100 kB."""
    run = large(12_000)
    for check in run.checks:
        check.comparisons = [replace(c, passed=True, bitwise=True) for c in check.comparisons]
    assert len(as_json(run).encode()) < 100_000


def test_a_row_is_one_line() -> None:
    """A line per row, so that two reports can be compared by eye and by diff."""
    lines = as_json(with_comparisons(EQUAL, CLOSE, replace(FAR, error=math.nan))).splitlines()
    assert "    [1, true, false, 3.0, 2e-16, 8e-16]," in lines
    assert '    [2, false, false, 1200000000.0, "NaN", 2e-10]' in lines
    assert '  ["T0", "losses/dino"],' in lines


@pytest.mark.parametrize(
    ("names", "inexact", "expected"),
    [
        ([[0, 3]], [], "within 2 names"),
        ([[-1, 1]], [], "names holds the run"),
        ([[0, 0]], [], "names holds the run"),
        ([[True, 1]], [], "names holds the run"),
        ([[0, 2]], [[2, True, False, None, None, None]], "place 2, expected one of 2"),
        ([[0, 2]], [[0, 1, False, None, None, None]], "expected true or false"),
        ([[0, 2]], [[0, True, False, None, "big", None]], "'big' is no number"),
        ([[0, 2]], [[0, True]], "not enough values"),
        ([[0]], [], "not enough values"),
    ],
)
def test_what_no_report_holds_is_refused(names: Any, inexact: Any, expected: str) -> None:
    """A file that was edited by hand is not read as something else."""
    with pytest.raises(ValueError, match=expected):
        records_of({"names": names, "inexact": inexact}, [["T0", "a"], ["T0", "b"]])


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), (1, 1.0), (0.5, 0.5), ("Infinity", math.inf), ("-Infinity", -math.inf)]
)
def test_numbers_are_read_as_they_are_written(value: object, expected: float | None) -> None:
    """With JSON's own, the three that JSON has no form for."""
    assert number_of(value) == expected
    assert math.isnan(number_of("NaN") or 0.0)
    with pytest.raises(ValueError, match="no number"):
        number_of(True)
