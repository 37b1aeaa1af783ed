from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from port.data.bad_files import BadFileLog, SkippedFile

A, B, C = (SkippedFile(f"{name}.jpg", "cut off") for name in "abc")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log goes: a folder that does not exist yet."""
    return tmp_path / "run" / "bad_files.jsonl"


def test_files_are_written_once(path: Path) -> None:
    """A file that comes again, in the same batch or later, has one line; names keep their letters."""
    log = BadFileLog(path, 100, 0.5)
    log.record([A, SkippedFile("é\n.png", 'no "image"'), A])
    log.record([A])
    log.record([B])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"name": "a.jpg", "reason": "cut off"},
        {"name": "é\n.png", "reason": 'no "image"'},
        {"name": "b.jpg", "reason": "cut off"},
    ]
    assert log.bad_files == (A, SkippedFile("é\n.png", 'no "image"'), B)


def test_each_file_is_warned_of_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the file, the reason and the count so far."""
    log = BadFileLog(path, 40, 1.0)
    with caplog.at_level(logging.WARNING, logger="port"):
        log.record([A, A])
        log.record([A, B])
    assert caplog.messages == [
        "skipped a.jpg: cut off (1 of 40 files so far)",
        "skipped b.jpg: cut off (2 of 40 files so far)",
    ]


def test_without_bad_files_nothing_is_created(path: Path) -> None:
    """A clean run leaves no file."""
    BadFileLog(path, 10, 0.0).record([])
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("n_files", "max_share", "allowed"), [(100, 0.02, 2), (150, 0.01, 1), (5, 0.01, 0), (3, 1.0, 3)], ids=str
)
def test_more_than_the_share_is_an_error(path: Path, n_files: int, max_share: float, allowed: int) -> None:
    """The run goes on while at most the share is bad, and stops at the next file; of five files one is too many."""
    log = BadFileLog(path, n_files, max_share)
    for number in range(allowed):
        log.record([SkippedFile(f"{number}.jpg", "")])
        log.record([SkippedFile(f"{number}.jpg", "")])
    if allowed == n_files:
        assert len(log.bad_files) == n_files
        return
    with pytest.raises(ValueError, match=rf"^{allowed + 1} of {n_files} files .* data.max_bad_share = {max_share:g}"):
        log.record([SkippedFile("one more.jpg", "")])


def test_the_error_names_files_and_what_to_do(path: Path) -> None:
    """The message has the share, the first five files with reasons, the count of the others, and the next step."""
    log = BadFileLog(path, 10, 0.1)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        log.record(SkippedFile(f"{number}.jpg", "empty") for number in range(7))
    first, *files = str(caught.value).splitlines()
    assert first == (
        "7 of 10 files (70.0%) cannot be read, expected at most data.max_bad_share = 0.1, which is 1; "
        f"repair or remove them, then delete {path}, or raise data.max_bad_share:"
    )
    assert files == [*(f"  {number}.jpg: empty" for number in range(5)), "  and 2 more"]


def test_a_resumed_run_goes_on_counting(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the file holds is known: not written again, not warned of again, but counted."""
    BadFileLog(path, 100, 0.02).record([A, B])
    resumed = BadFileLog(path, 100, 0.02)
    assert resumed.bad_files == (A, B)
    caplog.clear()
    resumed.record([B])
    assert caplog.messages == []
    with pytest.raises(ValueError, match="3 of 100 files"):
        resumed.record([C])
    assert len(path.read_text().splitlines()) == 3


def test_a_resumed_run_that_meets_no_bad_file_goes_on(path: Path) -> None:
    """Too many files in the log stop nothing as long as none is met again: they may have been repaired."""
    BadFileLog(path, 100, 0.5).record([A, B, C])
    repaired = BadFileLog(path, 100, 0.0)
    repaired.record([])
    with pytest.raises(ValueError, match="3 of 100 files"):
        repaired.record([A])


def test_ranks_share_the_file(path: Path) -> None:
    """A rank counts what the others have written, and does not write it again."""
    ranks = [BadFileLog(path, 100, 0.02) for _ in range(2)]
    ranks[0].record([A])
    ranks[1].record([A])
    ranks[1].record([B])
    with pytest.raises(ValueError, match="3 of 100 files"):
        ranks[0].record([C])
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    "torn", ['{"name": "b.jpg", "rea', '{"name": "\u00e9'.encode()[:-1].decode("latin-1"), "[1]\n"]
)
def test_half_a_line_is_passed_over(path: Path, torn: str) -> None:
    """A run killed while writing leaves half a line, which is dropped; the next file has a line of its own."""
    BadFileLog(path, 100, 1.0).record([A])
    with path.open("a", encoding="latin-1") as file:
        file.write(torn)
    log = BadFileLog(path, 100, 1.0)
    assert log.bad_files == (A,)
    log.record([B, C])
    assert BadFileLog(path, 100, 1.0).bad_files == (A, B, C)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_between_0_and_1(path: Path, share: float) -> None:
    """A percentage by mistake is an error that names the key."""
    with pytest.raises(ValueError, match=rf"data.max_bad_share is {share}, expected a share of all files, 0 to 1"):
        BadFileLog(path, 10, share)
