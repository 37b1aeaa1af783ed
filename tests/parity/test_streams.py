from __future__ import annotations

import io
import sys

import pytest

from parity.streams import complain, console_for, emit, substitute_unencodable


class _Broken(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "told"),
    [(BrokenPipeError(32, "Broken pipe"), ""), (OSError(28, "No space left on device"), "No space left")],
)
def test_printing_never_raises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, told: str
) -> None:
    """A closed pipe is silence, a full disk a warning; neither is an exception."""
    monkeypatch.setattr(sys, "stdout", _Broken(error))
    emit("text")
    err = capsys.readouterr().err
    assert told in err
    assert bool(err) == bool(told)


def test_complaints_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A message with line ends is folded; a traceback is not."""
    complain("a\n  b")
    complain("a\nb\n", one_line=False)
    assert capsys.readouterr().err == "a b\na\nb\n"


def test_complaints_without_a_stderr_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be told, nothing fails either."""
    broken = _Broken(OSError(5, "Input/output error"))
    monkeypatch.setattr(sys, "stderr", broken)
    complain("text")
    assert broken.getvalue() == ""


def test_characters_that_an_encoding_lacks_become_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """One character for one, so that pictures keep their shape."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    substitute_unencodable()
    emit("▀▄█ │ … ü重\n")
    assert buffer.getvalue() == b"^_# | ~ ??\n"


def test_utf8_streams_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the encoding has a character, it is printed."""
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="utf-8"))
    substitute_unencodable()
    emit("▀ü")
    assert buffer.getvalue() == "▀ü".encode()


def test_consoles_take_markup_as_text() -> None:
    """Ids hold brackets, which rich would read as styles."""
    console = console_for(io.StringIO())
    with console.capture() as capture:
        console.print("masks.block[red] :smile: 12")
    assert capture.get() == "masks.block[red] :smile: 12\n"


def test_consoles_never_write_to_their_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stream cannot take must not reach rich, which would end the process with code 1."""
    monkeypatch.setenv("COLUMNS", "123")
    console = console_for(_Broken(BrokenPipeError(32, "Broken pipe")))
    with console.capture() as capture:
        console.print("text")
    assert (capture.get(), console.width) == ("text\n", 123)


@pytest.mark.parametrize("gone", ["closed", "none"])
def test_a_stdout_that_is_gone_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    """A closed stdout, or none as under `>&-`, costs the text and says so once; nothing to print, nothing to say."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed if gone == "closed" else None)
    emit("text")
    emit("")
    assert capsys.readouterr().err == "warning: stdout is closed, nothing could be printed\n"
