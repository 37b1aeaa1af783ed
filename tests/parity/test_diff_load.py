from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricated_diffs import base
from fabricated_reports import everything
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.diff.changes import compare_reports
from parity.diff.load import load_report
from parity.diff.render import as_json as diff_as_json
from parity.diff.render import as_markdown
from parity.errors import ReportError
from parity.report import as_json
from parity.report.json_report import MOST_DIVERGENCES


@pytest.fixture
def report(tmp_path: Path) -> Callable[[object], Path]:
    """Write something as a file: bytes and text as they are, the rest as JSON."""

    def write(content: object) -> Path:
        path = tmp_path / "r.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return path

    return write


Write = Callable[[object], Path]


def _document() -> dict[str, Any]:
    document = json.loads(as_json(base()))
    assert isinstance(document, dict)
    return document


def test_a_report_is_read(report: Write) -> None:
    """Checks with their records, self-checks as a check, provenance and options by dotted names."""
    read = load_report(report(as_json(everything())))
    assert (read.exit_code, read.causes) == (1, ("reference", "0005", "Q3"))
    assert len(read.checks) == 13
    check = read.checks["gradients.step[vitl14]"]
    assert (check.status, check.compared, check.diverged, check.within) == ("diverged", 130, 129, 1)
    assert check.records is not None
    assert [r.passed for r in check.records[:2]] == [True, False]
    # All of them, beyond the divergences that are told in full.
    assert len(check.records) == 130 < MOST_DIVERGENCES
    assert read.settings["options.recipes"] == ["default", "vitl14"]
    assert read.settings["reference.identity"] == "modified"
    assert read.has_records


def test_a_byte_order_mark_is_no_obstacle(report: Write) -> None:
    """Editors on Windows put one there."""
    assert load_report(report(b"\xef\xbb\xbf" + as_json(base()).encode())).exit_code == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"  \n", "the file is empty"),
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
        (b'{"schema": "\xe4"}', "byte 12 is not UTF-8"),
        (b"\x1f\x8b\x08", "byte 1 is not UTF-8"),
        ("{schema: 1}", "no JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        ("# Summary\n", "no JSON: Expecting value at line 1, column 1"),
        ("[" * 100_000, "no JSON"),
        ('{"schema": 1' + "0" * 5000 + "}", "no JSON that can be read"),
        ([1], "a JSON list, expected what `python -m parity run --json FILE` writes"),
        ("null", "a JSON null"),
        ('"text"', "a JSON string"),
        ("3", "a JSON number"),
        ({}, "a JSON object without 'schema'"),
        ({"version": "2.1.0", "runs": []}, "a JSON object without 'schema'"),
        ({"schema": 2}, "schema 2, this version reads schema 1"),
        ({"schema": "1"}, "schema '1', this version reads schema 1"),
        ({"schema": True}, "schema True, this version reads schema 1"),
        ({"schema": 1}, "'reference' is missing"),
    ],
)
def test_what_is_no_report_is_refused(report: Write, content: object, expected: str) -> None:
    """One line that names the file, what it is, and what is expected; never a traceback of the parser."""
    path = report(content)
    with pytest.raises(ReportError) as raised:
        load_report(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert expected in str(raised.value)


def test_a_report_that_was_cut_off_says_so(report: Write) -> None:
    """At whichever byte of the text the file ends, it is refused; near its end the message asks whether it was cut."""
    text = as_json(base())
    for end in range(1, len(text.rstrip()), 97):
        with pytest.raises(ReportError, match=r"no JSON: .* at line \d+, column \d+"):
            load_report(report(text[:end]))
    with pytest.raises(ReportError, match="was it cut off"):
        load_report(report(text.rstrip()[:-1]))


@pytest.mark.parametrize(("name", "expected"), [("absent.json", "No such file"), (".", "it is a folder")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, expected: str) -> None:
    """With the system's reason."""
    with pytest.raises(ReportError, match=expected):
        load_report(tmp_path / name)


def _set(document: Any, path: str, value: Any) -> None:
    """Set a value, or delete it where it is None, at `checks.0.id`."""
    *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in way:
        document = document[step]
    if value is None:
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("checks", {}, "'checks' is a JSON object"),
        ("checks.0", 5, "checks[0] is a JSON number"),
        ("checks.1.id", None, "'checks[1].id' is missing"),
        ("checks.1.id", "losses.x[default]", "two checks have the id 'losses.x[default]'"),
        ("checks.0.status", "fine", "checks[0].status is 'fine', not one of passed, diverged, waived, not_run, error"),
        ("checks.0.compared", True, "'checks[0].compared' is a JSON boolean"),
        ("checks.0.compared", 4, "counts 4 comparisons of which 0 diverged, and lists 3 of which 0 did"),
        ("checks.0.diverged", 1, "counts 3 comparisons of which 1 diverged, and lists 3 of which 0 did"),
        ("checks.0.attribution", [5], "'checks[0].attribution' holds something that is not a string"),
        ("checks.0.names", [[0, 99]], "within 4 names"),
        ("checks.0.names", None, "the comparisons of checks[0] (losses.x[default]) cannot be read: 'names'"),
        ("checks.0.inexact", [[0]], "cannot be read"),
        ("checks.0.inexact", 5, "cannot be read"),
        ("names", "abc", "'names' is a JSON string"),
        ("names.0", ["T0", "a", "b"], "'names' holds something that is not a pair of strings"),
        ("doctor.0.tier", None, "'doctor[0].tier' is missing"),
        ("names.0", 7, "'names' holds something that is not a pair of strings, tier and name"),
        ("exit_code", "0", "'exit_code' is a JSON string"),
        ("summary", None, "'summary' is missing"),
        ("summary.attribution", None, "'summary.attribution' is missing"),
        ("subject", [], "'subject' is a JSON list"),
        ("doctor", "sound", "'doctor' is a JSON string"),
        ("doctor.0", [], "doctor[0] is a JSON list"),
        ("doctor.0.passed", "yes", "'doctor[0].passed' is a JSON string"),
        ("doctor.0.error", "big", "doctor[0]: 'big' is no number"),
    ],
)
def test_a_report_that_was_changed_is_refused(report: Write, path: str, value: Any, expected: str) -> None:
    """A value that no report holds is named with its place, and nothing is concluded from the rest."""
    document = _document()
    _set(document, path, value)
    with pytest.raises(ReportError) as raised:
        load_report(report(document))
    assert expected in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(["", "passed", "NaN", "losses/a"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "names", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = [
    "schema", "reference", "subject", "environment", "options", "doctor", "doctor.0", "doctor.0.error", "checks",
    "checks.0", "checks.0.id", "checks.0.status", "checks.0.compared", "checks.0.names", "checks.0.names.0",
    "checks.0.inexact", "checks.0.inexact.0", "checks.0.inexact.0.0", "checks.0.inexact.0.4", "names", "names.0",
    "summary", "summary.attribution", "exit_code",
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=JSON)
def test_whatever_stands_in_a_report_it_is_read_or_refused(report: Write, place: str, value: Any) -> None:
    """Any JSON at any place: no error but `ReportError`, and what is read can be compared and told."""
    document = _document()
    _set(document, place, value)
    path = report(document)
    try:
        read = load_report(path)
    except ReportError:
        return
    difference = compare_reports(read, load_report(report(_document())))
    assert as_markdown(difference).startswith(("## WORSE: ", "## NOT WORSE: "))
    json.loads(diff_as_json(difference))


def test_keys_of_later_versions_are_ignored(report: Write) -> None:
    """Schema 1 may gain keys."""
    document = _document() | {"new": 1}
    document["checks"][0]["new"] = {"a": []}
    assert load_report(report(document)).checks["losses.x[default]"].compared == 3


def _older(document: dict[str, Any]) -> dict[str, Any]:
    """Return a report as it was before reports named every comparison."""
    del document["names"], document["started"]
    for check in document["checks"]:
        del check["names"], check["inexact"]
    return document


def test_a_report_without_records_is_compared_by_counts(report: Write, tmp_path: Path) -> None:
    """Fewer comparisons within tolerance, or more that diverge, are worse; equal counts are not."""
    older = load_report(report(_older(_document())))
    assert not older.has_records
    fewer = _document()
    fewer["checks"][0] |= {"compared": 2, "names": [[0, 2]], "inexact": []}
    (tmp_path / "b.json").write_text(json.dumps(fewer))
    difference = compare_reports(older, load_report(tmp_path / "b.json"))
    assert difference.reasons == ["1 check has fewer comparisons within tolerance"]
    assert [(a.compared, b.compared) for a, b in difference.counts] == [(3, 2)]
    assert compare_reports(older, load_report(report(_document()))).exit_code == 0
