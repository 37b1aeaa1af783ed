from __future__ import annotations

import io
import sys

import pytest

from parity.report import progress as module
from parity.report.progress import progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal there is no bar: one line in 15 seconds, on stderr, and nothing on stdout."""
    times = iter([0.0, 5.0, 16.0, 20.0, 40.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with progress() as advance:
        for done in range(4):
            advance(f"masks.block[{done}]", done, 4)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1 of 4 checks done, now: masks.block[1]",
        "3 of 4 checks done, now: masks.block[3]",
    ]


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stderr costs the progress, not the run."""
    closed = io.StringIO()
    with progress() as advance:
        monkeypatch.setattr(sys, "stderr", closed)
        closed.close()
        monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)
        advance("masks.block", 0, 1)
    assert closed.closed


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar shows the check and how many are done; brackets in ids are no markup."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress() as advance:
        advance("gradients.step[vitl14]", 3, 7)
    shown = terminal.getvalue()
    assert "gradients.step[vitl14]" in shown
    assert "3/7" in shown


def test_no_stderr_at_all_stops_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Under `2>&-` Python has no stderr: every call is accepted, and nothing lands on stdout instead."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1.0)
    with progress() as advance:
        advance("masks.block", 0, 1)
        advance("done", 1, 1)
    assert capsys.readouterr().out == ""
