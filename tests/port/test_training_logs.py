from __future__ import annotations

import io
import logging
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from port.training.logs import log_to_file, log_to_stderr

logger = logging.getLogger("port")


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        """Fail."""
        raise BrokenPipeError


def test_messages_go_to_stderr_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings and errors say that they are; details stay out."""
    with log_to_stderr(0):
        logger.debug("a detail")
        logger.info("step %d", 3)
        logger.warning("skipped")
        logger.error("lost")
    shown = capsys.readouterr()
    assert shown.err == "step 3\nwarning: skipped\nerror: lost\n"
    assert shown.out == ""


def test_other_ranks_show_warnings_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    """Rank 2 repeats nothing of what rank 0 says."""
    with log_to_stderr(2):
        logger.info("step 3")
        logger.warning("skipped")
    assert capsys.readouterr().err == "rank 2: warning: skipped\n"


def test_lines_go_where_stderr_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar replaces sys.stderr while it is shown."""
    with log_to_stderr(0):
        replaced = io.StringIO()
        monkeypatch.setattr(sys, "stderr", replaced)
        logger.info("above the bar")
    assert replaced.getvalue() == "above the bar\n"


@pytest.mark.parametrize("stream", [None, Broken(), io.StringIO()])
def test_a_stderr_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    """None under pythonw, a broken pipe, a closed file: the message is lost, training goes on."""
    if stream is not None and not isinstance(stream, Broken):
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with log_to_stderr(0):
        logger.info("lost")
        reached = True
    assert reached


def test_everything_is_as_before_afterwards(tmp_path: Path) -> None:
    """No handler and no level stays, after an error neither."""
    before = list(logger.handlers), logger.level
    with log_to_stderr(0), log_to_file(tmp_path, 0):
        assert len(logger.handlers) == len(before[0]) + 2
    with suppress(KeyError), log_to_stderr(0), log_to_file(tmp_path, 0):
        raise KeyError
    assert (list(logger.handlers), logger.level) == before


def test_the_file_has_time_and_place_and_is_appended_to(tmp_path: Path) -> None:
    """OUTPUT/logs/log.txt, in UTF-8; a second session goes on below the first."""
    for message in ("first", "zweite Größe"):
        with log_to_file(tmp_path, 0):
            logger.info("%s", message)
    lines = (tmp_path / "logs/log.txt").read_text(encoding="utf-8").splitlines()
    pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO test_training_logs:\d+\] "
    assert [re.sub(pattern, "", line) for line in lines] == ["first", "zweite Größe"]


def test_a_name_that_is_no_text_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's name may hold any bytes; its line is in the file, and logging complains of nothing."""
    # pytest-xdist cannot hand on the line that pytest itself would record.
    monkeypatch.setattr(logger, "propagate", False)
    with log_to_file(tmp_path, 0):
        logger.warning("skipped %s", "bad\udcff.png")
    assert (tmp_path / "logs/log.txt").read_text(encoding="utf-8").endswith("skipped bad\\udcff.png\n")
    assert capsys.readouterr().err == ""


def test_other_ranks_have_files_of_their_own(tmp_path: Path) -> None:
    """Official's names: log.txt.rank1."""
    with log_to_file(tmp_path, 1):
        logger.info("of rank 1")
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["log.txt.rank1"]
    assert (tmp_path / "logs/log.txt.rank1").read_text().endswith("of rank 1\n")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The caller is told; nothing is logged into the void."""
    (tmp_path / "logs").write_text("a file")
    with pytest.raises(FileExistsError), log_to_file(tmp_path, 0):
        pytest.fail("it was opened")
