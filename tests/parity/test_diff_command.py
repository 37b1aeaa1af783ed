from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated_diffs import base, failing, with_first, written
from fabricated_reports import HOSTILE, everything, hostile, large
from fabricated_results import CLOSE, MODIFIED, passing
from rich.console import Console

from parity.cli import main
from parity.diff.changes import compare_reports
from parity.diff.load import load_report
from parity.diff.render import MOST_CHANGES, MOST_GROWTHS, as_json, as_markdown, as_text
from parity.results import RunResult

A, B, C = base().checks[0].comparisons


def _changed() -> RunResult:
    """A comparison newly fails, one loses its bits; other options, another reference, one more check."""
    run = with_first(base(), failing(A), replace(CLOSE, name=B.name), C)
    new = replace(run.checks[1], id="masks.new")
    return replace(run, checks=[*run.checks, new], reference=MODIFIED, options={"quick": False, "only": []})


def _text(before: RunResult, after: RunResult, folder: Path, width: int = 300) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    return as_text(compare_reports(*map(load_report, written(folder, before, after))), console)


def test_worse_is_1_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reports, what was asked for, the checks, the comparisons, and the reasons in the last line."""
    first, second = written(tmp_path, base(), _changed())
    assert main(["diff", str(first), str(second)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    parts = (
        "A: ",
        "a.json: 2 passed; exit 0",
        "B: ",
        "b.json: 1 diverged, 2 passed; exit 1",
        "provenance and options that differ (6): ",
        "- reference.source: github → path",
        "- options.quick: True → False",
        "checks only in B (1): - masks.new: passed, 1 of 1 within tolerance",
        "checks with another status (1): - losses.x[default]: passed → DIVERGED",
        "comparisons that newly fail (1): - losses.x[default]: 1 - losses/a (T1): equal → FAILS, 3e-05, allowed 2e-10",
        "comparisons no longer equal bit for bit, within tolerance (1): - losses.x[default]: 1 - losses/b (T1): equal",
        "errors that grew in relation to what is allowed (2): - losses.x[default] losses/a (T1): 0 → 150,000 of what",
        "WORSE: 1 check passed and does not any more, 1 comparison newly fails, "
        "A was parity and B ended with exit code 1 · exit 1",
    )
    places = [out.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)


def test_not_worse_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line says what was found: nothing at all, or nothing that is worse."""
    first, second = written(tmp_path, base(), replace(base(), seconds=5.0))
    assert main(["diff", str(first), str(second)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "NOT WORSE: nothing differs but times · exit 0"
    written(tmp_path, _changed(), base())
    assert main(["diff", str(first), str(second)]) == 1
    assert main(["diff", str(second), str(first)]) == 1
    capsys.readouterr()
    written(tmp_path, with_first(base(), failing(A), B, C), base())
    assert main(["diff", str(first), str(second)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "NOT WORSE: everything that passed in A passes in B · exit 0"
    assert "comparisons that newly pass (1):" in lines


@pytest.mark.parametrize("broken", [0, 1])
def test_what_cannot_be_read_is_2(broken: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever of the two it is: one line on stderr, nothing on stdout, no file written."""
    paths = written(tmp_path, base(), base())
    paths[broken].write_text("{")
    assert main(["diff", *map(str, paths), "--json", str(tmp_path / "d.json")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {paths[broken]}: no JSON")
    assert err.count("\n") == 1
    assert not (tmp_path / "d.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.json"], "the following arguments are required: B.json; see `python -m parity diff --help`"),
        ([], "the following arguments are required: A.json, B.json"),
        (["a.json", "b.json", "c.json"], "unknown argument 'c.json'"),
        (["a.json", "b.json", "--jsno", "x"], "did you mean '--json'?"),
        (["a.json", "b.json", "--json", "d", "--markdown", "./d"], "--json and --markdown name the same file"),
        (["a.json", "b.json", "--json", "./a.json"], "--json names a file that is read, a.json"),
        (["a.json", "b.json", "--markdown", "absent/d"], "the folder"),
        (["a.json", "", ""], "the name of the file is empty"),
    ],
)
def test_wrong_lines_are_answered(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Value, expectation and next step; code 2, and the reports stay as they are."""
    written(tmp_path, base(), base())
    monkeypatch.chdir(tmp_path)
    assert main(["diff", *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
    assert load_report(tmp_path / "a.json").exit_code == 0


def test_files_hold_the_same(tmp_path: Path) -> None:
    """JSON in full, Markdown for a summary, both with the code that the process ends with."""
    first, second = written(tmp_path, base(), _changed())
    files = ["--json", str(tmp_path / "d.json"), "--markdown", str(tmp_path / "d.md")]
    assert main(["diff", str(first), str(second), *files]) == 1
    document = json.loads((tmp_path / "d.json").read_text())
    assert (document["diff_schema"], document["exit_code"]) == (1, 1)
    assert [(c["check"], c["name"]) for c in document["failing"]] == [("losses.x[default]", "losses/a")]
    assert document["failing"][0]["after"] == {"passed": False, "bitwise": False, "error": 3e-05, "allowed": 2e-10}
    assert [c["id"] for c in document["new"]] == ["masks.new"]
    assert document["worse"][1] == "1 comparison newly fails"
    lines = (tmp_path / "d.md").read_text().splitlines()
    assert lines[0].startswith("## WORSE: 1 check passed and does not any more")
    assert "### comparisons that newly fail (1)" in lines
    assert "  - losses/a (T1): equal → FAILS, 3e-05, allowed 2e-10" in lines


def test_a_file_that_cannot_be_written_is_2_in_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The difference is still printed, and nothing claims another code."""
    first, second = written(tmp_path, base(), base())
    monkeypatch.setattr("parity.diff.render.as_markdown", lambda *_: 1 / 0)
    files = ["--json", str(tmp_path / "d.json"), "--markdown", str(tmp_path / "d.md")]
    assert main(["diff", str(first), str(second), *files]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "NOT WORSE: nothing differs but times · exit 2"
    assert json.loads((tmp_path / "d.json").read_text())["exit_code"] == 2
    assert "making the markdown report raised ZeroDivisionError" in err


def test_the_difference_of_a_difference_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `diff --json` writes is no report of a run."""
    first, second = written(tmp_path, base(), base())
    main(["diff", str(first), str(second), "--json", str(tmp_path / "d.json")])
    assert main(["diff", str(first), str(tmp_path / "d.json")]) == 2
    assert "a JSON object without 'schema'" in capsys.readouterr().err


def test_many_changes_are_counted(tmp_path: Path) -> None:
    """Three comparisons a check and ten growths are named; the titles count all."""
    text = _text(large(2400), large(2400, fail_every=2), tmp_path)
    assert "comparisons that newly fail (1,200):" in text
    assert text.count("and 97 more") == 12
    assert text.count("of what is allowed (") == MOST_GROWTHS
    assert len(text.splitlines()) < 40 + 12 * (MOST_CHANGES + 3)


def test_causes_that_come_and_go_are_named(tmp_path: Path) -> None:
    """Which cause is new is what one wants to know first."""
    text = _text(passing(), everything(), tmp_path)
    assert "causes that only B has (3):\n  - reference\n  - 0005\n  - Q3\n" in text
    assert "causes that only A has (3):" in _text(everything(), passing(), tmp_path)


def test_an_older_report_is_told(tmp_path: Path) -> None:
    """Whoever sees that nothing newly fails must know that it was not looked at."""
    first, second = written(tmp_path, base(), base())
    document = json.loads(first.read_text())
    del document["names"]
    first.write_text(json.dumps(document))
    difference = compare_reports(load_report(first), load_report(second))
    note = "A does not name its comparisons (it was written before reports did): compared by counts alone"
    assert note in as_markdown(difference)
    assert as_markdown(difference).splitlines()[0] == "## NOT WORSE: nothing that can be compared is worse · exit 0"


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """Names and values of others neither start markup nor end a line."""
    first, second = written(tmp_path, passing(), hostile())
    difference = compare_reports(load_report(first), load_report(second))
    text = as_markdown(difference)
    assert "<script>" not in text.replace("\\<", "")
    assert "\x1b" not in text + _text(passing(), hostile(), tmp_path)
    assert "\n::error" not in text + _text(passing(), hostile(), tmp_path)
    names = [check["id"] for check in json.loads(as_json(difference))["new"]]
    assert f"losses.x0[{HOSTILE[0]}!]" in names


@pytest.mark.parametrize("width", [60, 120])
def test_text_fits_the_terminal(tmp_path: Path, width: int) -> None:
    """All but the verdict, which tools read whole, is wrapped and never cut."""
    lines = _text(base(), _changed(), tmp_path, width).splitlines()
    assert [line for line in lines[:-1] if len(line) > width] == []


def test_help_tells_what_worse_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The rule, the codes and an example."""
    assert main(["diff", "--help"]) == 0
    text = capsys.readouterr().out
    for words in ("A.json B.json", "B is worse than A where", "0  B is not worse", "2  a report cannot be read"):
        assert words in text
