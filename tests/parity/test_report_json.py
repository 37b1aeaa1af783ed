from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from fabricated_results import CLOSE, EQUAL, FAR, MODIFIED, diverged, only_not_run, passing, with_comparisons

from parity.report.json_report import as_dict, as_json
from parity.results import Exhibit, RunResult


def _refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def _strict(result: RunResult) -> dict[str, object]:
    """Parse as any other language would: NaN and Infinity are no numbers."""
    loaded = json.loads(as_json(result), parse_constant=_refuse)
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("result", [passing(), diverged(), only_not_run()])
def test_the_document_has_the_keys_of_schema_1(result: RunResult) -> None:
    """The keys are a contract with programs: none comes, goes or moves unnoticed."""
    document = _strict(result)
    assert document["schema"] == 1
    assert list(document) == [
        "schema", "reference", "subject", "recipes", "environment", "options",
        "doctor", "checks", "waivers", "summary", "started", "seconds", "exit_code", "names",
    ]  # fmt: skip
    assert document["exit_code"] == result.exit_code


def test_a_check_has_the_keys_of_schema_1() -> None:
    """As above, for one check."""
    assert list(as_dict(diverged())["checks"][2]) == [
        "id", "family", "level", "recipe", "status", "title", "official", "reason", "compared", "bitwise_equal",
        "diverged", "waived", "max_ulp", "max_error", "allowed", "attribution", "findings", "divergences",
        "waived_divergences", "exhibits", "seconds", "names", "inexact",
    ]  # fmt: skip


def test_a_check_reports_its_worst_comparison() -> None:
    """`max_error` and `allowed` belong to one comparison, and `attribution` is root cause first."""
    check = as_dict(diverged())["checks"][2]
    assert (check["id"], check["recipe"], check["status"]) == ("gradients.step[vitl14]", "vitl14", "diverged")
    assert (check["compared"], check["bitwise_equal"], check["diverged"]) == (130, 0, 129)
    assert (check["max_ulp"], check["max_error"], check["allowed"]) == (1.2e9, 3e-5, 2e-10)
    assert check["attribution"] == ["0005", "Q3"]
    assert check["divergences"][0]["reference"] == "0.79499"
    assert check["exhibits"][0]["rows"][0]["mask"][0] == [True] * 14


def test_the_summary_adds_up() -> None:
    """4 + 130 + 1 comparisons, 5 within tolerance; one check each not run and failed."""
    summary = as_dict(diverged())["summary"]
    assert (summary["checks"], summary["passed"], summary["diverged"]) == (6, 2, 2)
    assert (summary["not_run"], summary["errors"]) == (1, 1)
    assert (summary["compared"], summary["within"], summary["bitwise_equal"]) == (135, 5, 3)
    assert summary["attribution"] == ["0005", "Q3"]
    assert summary["families"]["gradients"]["verdict"] == "DIVERGED"
    assert summary["families"]["losses"]["max_ratio"] == 0.25


def test_recipes_are_the_ones_that_ran() -> None:
    """Without a choice by the user, the recipes are read from the checks' ids."""
    assert as_dict(diverged())["recipes"] == ["default", "vitl14"]
    assert as_dict(replace(passing(), options={"recipes": ("default",)}))["recipes"] == ["default"]


@pytest.mark.parametrize(
    ("value", "expected"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (1e-300, 1e-300)]
)
def test_numbers_without_a_json_form_are_strings(value: float, expected: object) -> None:
    """Any JSON parser reads the report of a run that met NaN."""
    run = with_comparisons(replace(FAR, error=value, max_ulp=value))
    check = json.loads(as_json(run), parse_constant=_refuse)["checks"][0]
    assert check["max_error"] == expected
    assert check["divergences"][0]["max_ulp"] == expected


def test_divergences_are_limited_and_counted() -> None:
    """10,000 failures give 200 records and the true count."""
    run = with_comparisons(CLOSE, *[replace(FAR, name=f"p{n}") for n in range(10_000)])
    check = as_dict(run)["checks"][0]
    assert (check["compared"], check["diverged"], len(check["divergences"])) == (10_001, 10_000, 200)
    assert check["divergences"][199]["name"] == "p199"


def test_exact_rules_report_their_error() -> None:
    """Equal comparisons have error 0 of 0 allowed; comparisons without a size have null."""
    losses, masks = as_dict(passing())["checks"]
    assert (losses["max_error"], losses["allowed"]) == (2e-16, 8e-16)
    assert (masks["max_error"], masks["allowed"], masks["max_ulp"]) == (None, None, None)
    assert as_dict(with_comparisons(EQUAL))["checks"][0]["max_error"] == 0.0


def test_foreign_types_become_plain_ones() -> None:
    """Options and exhibits may hold paths, tuples, sets, numpy values and read-only mappings."""
    row = MappingProxyType({"mask": np.eye(2, dtype=bool), "lr": np.float32(0.5)})
    options = {"json": Path("a/b"), "only": ("masks",), "set": {"b", "a"}, "n": np.int64(3)}
    run = with_comparisons(FAR, exhibits=[Exhibit("table", "t", (row,))])
    document = json.loads(as_json(replace(run, options=options)))
    assert document["options"] == {"json": "a/b", "only": ["masks"], "set": ["a", "b"], "n": 3}
    assert document["checks"][0]["exhibits"][0]["rows"] == [{"mask": [[True, False], [False, True]], "lr": 0.5}]


def test_text_is_kept_as_it_is() -> None:
    """Non-ASCII text and control characters survive the round trip."""
    run = with_comparisons(replace(FAR, note='größe 重み "\x1b'))
    assert "größe 重み" in as_json(run)
    assert json.loads(as_json(run))["checks"][0]["divergences"][0]["note"] == 'größe 重み "\x1b'


def test_the_reference_is_reported_in_full() -> None:
    """What the first line shortens, the JSON has whole."""
    reference = as_dict(replace(passing(), reference=MODIFIED))["reference"]
    assert reference["identity"] == "modified"
    assert reference["modified"] == list(MODIFIED.modified)
    assert reference["substitutes"] == list(MODIFIED.substitutes)


def test_the_document_ends_in_a_newline_and_tells_the_processs_code() -> None:
    """The code given by the caller wins over the run's own."""
    assert as_json(passing()).endswith("}\n")
    assert as_dict(passing(), exit_code=2)["exit_code"] == 2
