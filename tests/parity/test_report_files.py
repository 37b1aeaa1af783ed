from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from parity.errors import OutputError
from parity.report.files import check_writable, write_atomically


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_report_is_written_whole_and_alone(tmp_path: Path) -> None:
    """The file holds the text in UTF-8, and nothing else is left in the folder."""
    path = tmp_path / "report.json"
    write_atomically(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_lone_surrogates_are_escaped(tmp_path: Path) -> None:
    """A file name that is not UTF-8 must not cost the report."""
    write_atomically(tmp_path / "r", '"\udc80"')
    assert (tmp_path / "r").read_text("utf-8") == '"\\udc80"'


def test_replacing_keeps_the_access_rights(tmp_path: Path) -> None:
    """A report that others may not read stays so; a new one gets what the umask allows."""
    path = tmp_path / "report.json"
    path.touch(mode=0o600)
    write_atomically(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    plain = tmp_path / "plain"
    plain.touch()
    write_atomically(tmp_path / "other", "new")
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_link_is_followed(tmp_path: Path) -> None:
    """The file that a link names is replaced, and the link stays."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace", "os.open"])
def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """Whichever step runs out of space, the old report stays whole and no temporary file remains."""
    path = tmp_path / "report.json"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(broken, _full)
        with pytest.raises(OutputError, match=r"report\.json: No space left on device"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of writing is passed on, and nothing half-written remains."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    """The check before a run creates nothing and changes nothing."""
    check_writable(tmp_path / "new.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The message names the path, the folder that is missing and the next step."""
    with pytest.raises(OutputError, match=r"r\.json: the folder .*absent does not exist; create it"):
        check_writable(tmp_path / "absent" / "r.json")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder is not a file."""
    with pytest.raises(OutputError, match="it is a folder"):
        check_writable(tmp_path)


def test_a_file_as_folder_is_refused(tmp_path: Path) -> None:
    """A file where a folder should be is named as the cause."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/r\.json"):
        check_writable(tmp_path / "file" / "r.json")


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal is passed on with the path."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(OutputError, match=r"r\.json: Read-only file system"):
        check_writable(tmp_path / "r.json")


def test_a_read_only_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename could replace a file that its owner made read-only, and must not."""
    (tmp_path / "r.json").touch()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OutputError, match="read-only"):
        check_writable(tmp_path / "r.json")


def test_a_full_device_is_noticed_before_the_run() -> None:
    """`/dev/full` can be opened but not written; the device itself is never renamed onto."""
    full = Path("/dev/full")
    with pytest.raises(OutputError, match="/dev/full: No space left on device"):
        check_writable(full)
    with pytest.raises(OutputError, match="/dev/full: No space left on device"):
        write_atomically(full, "text")
    assert full.is_char_device()


def test_a_device_is_written_directly() -> None:
    """`/dev/null` stays a device."""
    check_writable(Path("/dev/null"))
    write_atomically(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_a_pipe_is_not_touched_by_the_check(tmp_path: Path) -> None:
    """Opening a pipe would wait for its reader or end it."""
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
