from __future__ import annotations

import pytest

from parity.lines import reasons
from parity.lines.measure import FileLines
from parity.lines.reasons import Reason, reason_for
from parity.lines.report import as_text, verdict

_SOURCE = "a = 1\nb = 2\ndef f():\n    return 3\n"


def _files(left: tuple[int, ...]) -> list[FileLines]:
    return [
        FileLines("loss/koleo_loss.py", _SOURCE, (1, 2, 3, 4), left),
        FileLines("data/masking.py", "\n".join(["x = 1"] * 16), tuple(range(1, 17)), ()),
    ]


@pytest.fixture(autouse=True)
def two_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for a function, one for a line at the top."""
    known = (
        Reason("loss/koleo_loss.py", "f", "training never calls it"),
        Reason("loss/koleo_loss.py", "", "only without CUDA", text="b ="),
    )
    monkeypatch.setattr(reasons, "REASONS", known)


def test_a_table_with_what_is_left_and_why() -> None:
    """By hand: 19 of 20 are 95 %; the line that is left is given with its function and reason."""
    text = as_text(_files((4,)), 0.95)
    assert text.splitlines() == [
        "lines of official code executed by this run, below dinov2/",
        "  loss/koleo_loss.py      3 of     4   75.0 %",
        "  data/masking.py        16 of    16  100.0 %",
        "  all                    19 of    20   95.0 %",
        "left, and why:",
        "  loss/koleo_loss.py:4 in f: training never calls it",
        "enough: 95.0 % executed; 95.0 % are expected, and a reason for each line left",
    ]
    assert verdict(_files((4,)), 0.95) == 0


def test_too_few_lines_are_not_enough() -> None:
    """18 of 20 are 90 %, although each has its reason; neighbours of different reasons stand apart."""
    text = as_text(_files((2, 4)), 0.95)
    assert "  loss/koleo_loss.py:2: only without CUDA\n  loss/koleo_loss.py:4 in f: training never calls it\n" in text
    assert text.endswith("NOT ENOUGH: 90.0 % executed; 95.0 % are expected, and a reason for each line left\n")
    assert verdict(_files((2, 4)), 0.95) == 1


def test_a_line_without_a_reason_is_not_enough() -> None:
    """Even where the share is reached; the line is named."""
    text = as_text(_files((1,)), 0.95)
    assert "  loss/koleo_loss.py:1: NO REASON IS KNOWN\nNOT ENOUGH: 95.0 %" in text
    assert verdict(_files((1,)), 0.95) == 1


def test_a_share_is_never_rounded_up() -> None:
    """949 of 1,000 lines are 94.9 %, 9,499 of 10,000 too."""
    lines = tuple(range(1, 10_001))
    file = FileLines("data/masking.py", "x\n" * 10_000, lines, lines[:501])
    assert "  94.9 %" in as_text([file], 0.95)


def test_nothing_measured_is_not_enough() -> None:
    """Files without statements prove nothing."""
    assert verdict([FileLines("layers/__init__.py", "", (), ())], 0.95) == 1


def test_lines_of_another_model_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: of 20 statements one belongs elsewhere, which leaves 19 of 19; it is told all the same."""
    monkeypatch.setattr(reasons, "REASONS", (Reason("loss/koleo_loss.py", "f", "a text tower", elsewhere=True),))
    text = as_text(_files((4,)), 0.95)
    assert "  loss/koleo_loss.py      3 of     3  100.0 %\n" in text
    assert "  loss/koleo_loss.py:4 in f: a text tower (not counted)\nenough: 100.0 %" in text


def test_the_reason_that_names_most_of_a_line_is_told() -> None:
    """A line's own reason goes before its function's."""
    found = reason_for("loss/koleo_loss.py", "", "b = 2")
    assert found is not None
    assert found.why == "only without CUDA"
    assert reason_for("loss/koleo_loss.py", "", "a = 1") is None
    assert reason_for("loss/dino_clstoken_loss.py", "f", "return 3") is None
