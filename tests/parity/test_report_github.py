from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fabricated_reports import everything, hostile
from fabricated_results import FAR, diverged, only_not_run, passing, with_comparisons

from parity.report.github import MOST_ANNOTATIONS, Annotation, as_annotations, gather_annotations
from parity.results import CheckResult, Finding, RunResult

COMMAND = re.compile(r"::(?P<level>error|notice) (?P<properties>[^:]*)::(?P<message>[^\r\n]*)")


def _parsed(line: str) -> dict[str, str]:
    """Read a command as GitHub's runner does: split, then undo the escapes, of properties five and of data three."""
    found = COMMAND.fullmatch(line)
    assert found, line
    properties = dict(pair.split("=", 1) for pair in found["properties"].split(","))
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        properties = {key: value.replace(code, character) for key, value in properties.items()}
    message = found["message"].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
    return {"level": found["level"], "message": message, **properties}


def _commands(result: RunResult, exit_code: int | None = None) -> list[dict[str, str]]:
    text = as_annotations(result, exit_code)
    assert text.endswith("\n")
    return [_parsed(line) for line in text.removesuffix("\n").split("\n")]


def test_parity_is_one_notice() -> None:
    """No error, and the verdict line in the run's summary."""
    (notice,) = _commands(passing())
    assert (notice["level"], notice["title"]) == ("notice", "parity")
    assert notice["message"].startswith("PARITY: 4 comparisons, 4 within tolerance")


def test_causes_come_first_and_root_causes_before_all() -> None:
    """An edited reference, the differences, the quirks; then checks without a cause, then errors."""
    titles = [a.title for a in gather_annotations(everything())]
    assert [title.split(": ")[1] for title in titles] == [
        "reference",
        "0005",
        "Q3",
        "collate.batch",
        "trajectory.steps",
        "error in masks.block[vitl14]",
        "error in losses.koleo[default]",
    ]


def test_a_cause_is_placed_at_its_official_line() -> None:
    """File and line are those of the finding; the message tells what was seen, the next step and the first values."""
    first = _commands(diverged())[0]
    assert (first["file"], first["line"]) == ("dinov2/loss/ibot_patch_loss.py", "126")
    assert first["title"] == "parity: 0005: 2 checks, 130 diverging comparisons (all shared with Q3)"
    lines = first["message"].split("\n")
    assert lines[0].startswith("official / yours = 79.50 = masked tokens per image")
    assert lines[1] == "next: migration 0005"
    assert lines[2].startswith(
        "first: gradients.step[vitl14]: gradients/backbone.cls_token, official 0.79499, yours 0.01"
    )


def test_a_range_of_lines_is_placed_at_its_first() -> None:
    """`collate.py:9-50` is line 9."""
    (bare,) = [a for a in gather_annotations(everything()) if "collate.batch" in a.title]
    assert (bare.file, bare.line) == ("dinov2/data/collate.py", 9)


def test_an_error_is_placed_where_it_was_raised() -> None:
    """The innermost line, relative to the repository where it lies in it."""
    (raised,) = [a for a in gather_annotations(everything(), root="/home/me/fork") if "koleo" in a.title]
    assert (raised.file, raised.line) == ("losses.py", 12)
    (elsewhere,) = [a for a in gather_annotations(everything(), root="/home/you") if "koleo" in a.title]
    assert elsewhere.file == "/home/me/fork/losses.py"


def test_a_finding_without_a_place_has_none() -> None:
    """No file is invented."""
    run = with_comparisons(FAR, findings=[Finding("Q3", "no place")])
    assert "file" not in _commands(run)[0]


def test_no_verdict_is_an_error() -> None:
    """Nothing compared, an unsound instrument, a report that could not be written: never silence."""
    assert [c["level"] for c in _commands(only_not_run())] == ["error"]
    assert _commands(only_not_run())[0]["message"].startswith("NO VERDICT: nothing was compared")
    (unsound,) = _commands(replace(passing(), doctor=[replace(FAR, name="doctor/repeat")]))
    assert (unsound["level"], unsound["title"]) == ("error", "parity: self-check failed: doctor/repeat")
    (unwritten,) = _commands(passing(), exit_code=2)
    assert (unwritten["level"], unwritten["message"][-6:]) == ("error", "exit 2")


@pytest.mark.parametrize(("many", "left"), [(8, 0), (9, 0), (10, 1), (30, 21)])
def test_nine_are_shown_and_the_rest_is_counted(many: int, left: int) -> None:
    """GitHub drops what is beyond ten without a word; the tenth line says how many, and keeps the verdict."""
    checks = [CheckResult(f"losses.x{n}", "losses", "L1", "diverged", "x", comparisons=[FAR]) for n in range(many)]
    commands = _commands(replace(passing(), checks=checks))
    assert len(commands) == min(many, MOST_ANNOTATIONS) + (left > 0)
    assert [c["title"].split(": ")[1] for c in commands[:MOST_ANNOTATIONS]] == [f"losses.x{n}" for n in range(many)][:9]
    if left:
        assert commands[-1]["message"].startswith(f"and {left} more, such as parity: losses.x9")
        assert "DIVERGED: " in commands[-1]["message"]
        assert commands[-1]["level"] == "error"


def test_causes_are_not_crowded_out() -> None:
    """However many checks have no cause, the one that has it comes first."""
    bare = [CheckResult(f"losses.x{n}", "losses", "L1", "diverged", "x", comparisons=[FAR]) for n in range(30)]
    run = replace(passing(), checks=[*bare, *diverged().checks])
    assert [c["title"].split(": ")[1] for c in _commands(run)[:3]] == ["0005", "Q3", "losses.x0"]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (
            Annotation("error", "50%: a, b", "100% :: x, y\r\nnext\n", "a:b,c%.py", 3),
            "::error file=a%3Ab%2Cc%25.py,line=3,title=50%25%3A a%2C b::100%25 :: x, y%0Anext",
        ),
        (Annotation("notice", "t", "%0A"), "::notice title=t::%250A"),
        (Annotation("error", "a\nb", "x\x1b[0m\x00"), "::error title=a b::x\\x1b[0m\\x00"),
        (Annotation("error", "t", "m", "f.py", 0), "::error title=t::m"),
    ],
)
def test_commands_are_escaped(annotation: Annotation, expected: str) -> None:
    """Percent, line ends, and in properties colon and comma, as the runner's toolkit does; by hand."""
    assert annotation.command == expected


def test_hostile_text_starts_no_command() -> None:
    """Names with line ends and `::error::` make neither a second command nor another property."""
    commands = _commands(hostile())
    assert len(commands) == MOST_ANNOTATIONS + 1
    assert all(set(c) <= {"level", "message", "title", "file", "line"} for c in commands)
