from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.errors import ReferenceSourceError
from parity.reference.identity import Identity, identify, read_files
from parity.reference.source import Source

MASKING = "dinov2/data/masking.py"
APRIL = "commit f896929 (2023-04-20)"
WHEEL = f"dinov2 0.0.1.dev2 on PyPI = {APRIL} but for __version__"


@pytest.fixture
def files(official_source: Source) -> dict[str, bytes]:
    """The wheel's training files, to be changed by a test."""
    return dict(official_source.files)


def _altered(data: bytes, edit: Callable[[list[str]], None]) -> bytes:
    lines = data.decode().split("\n")
    edit(lines)
    return "\n".join(lines).encode()


def test_wheel_is_verified_and_named(files: dict[str, bytes]) -> None:
    """PyPI's wheel is recognised as April 2023 code but for its version."""
    found = identify(files)
    assert found.version == WHEEL
    assert found.identity == "verified"
    assert found.files_total == found.files_verified == 44
    assert found.modified == ()


def test_commit_is_verified_and_named(files_at_commit: dict[str, bytes]) -> None:
    """With the version of the repository the same files are the commit's own."""
    found = identify(files_at_commit)
    assert (found.version, found.identity) == (APRIL, "verified")
    assert [sha[:7] for sha in found.commits] == ["fc49f49", "ea5276e", "719b190", "f896929"]


def test_one_altered_line_is_named(files: dict[str, bytes]) -> None:
    """`if delta > 0:` made `if delta > 1:` is found in its file, at its line."""
    line = files[MASKING].decode().split("\n").index("                if delta > 0:") + 1
    files[MASKING] = files[MASKING].replace(b"if delta > 0:", b"if delta > 1:")
    found = identify(files)
    assert found.identity == "modified"
    assert found.version == f"modified; nearest: {WHEEL}"
    assert found.files_verified == 43
    (changed,) = found.modified
    assert (changed.path, changed.kind, changed.removed) == (MASKING, "changed", 1)
    assert changed.lines == ((line, "                if delta > 1:"),)
    assert changed.text() == f"{MASKING} differs from {APRIL}: line {line}: `if delta > 1:`"


def test_inserted_and_removed_lines_are_told_apart(files: dict[str, bytes]) -> None:
    """An inserted line has its number and text; a removed one the place where it is missing."""

    def edit(lines: list[str]) -> None:
        lines.insert(3, "SURPRISE = 1")
        del lines[10]

    files[MASKING] = _altered(files[MASKING], edit)
    (changed,) = identify(files).modified
    assert changed.lines == ((4, "SURPRISE = 1"),)
    assert changed.removed == 1
    assert "line 4: `SURPRISE = 1`" in changed.text()
    assert f"official lines removed before line {changed.removed_at[0]}" in changed.text()
    assert changed.removed_at[0] in (10, 11)


def test_many_changed_lines_are_shortened(files: dict[str, bytes]) -> None:
    """The sentence names eight lines and counts the rest; the record has all."""
    files[MASKING] = b"\n".join(b"x = %d" % number for number in range(20))
    (changed,) = identify(files).modified
    assert len(changed.lines) == 20
    assert changed.text().endswith("line 8: `x = 7`; and 12 more lines")


def test_white_space_at_line_ends_is_said_to_be_that(files: dict[str, bytes]) -> None:
    """A file that differs in trailing blanks is modified, with no line to blame."""
    files[MASKING] = files[MASKING].replace(b":\n", b": \n", 1)
    (changed,) = identify(files).modified
    assert changed.lines == ()
    assert changed.text() == f"{MASKING} differs from {APRIL}: white space at line ends only"


def test_undecodable_file_is_still_named(files: dict[str, bytes]) -> None:
    """Bytes that are no UTF-8 do not stop the comparison."""
    files[MASKING] = files[MASKING] + b"# \xff\xfe\n"
    (changed,) = identify(files).modified
    assert changed.lines[0][1] == "# \ufffd\ufffd"


def test_crlf_copy_is_verified_with_a_remark(files: dict[str, bytes]) -> None:
    """A checkout with Windows line endings is official code, and the report says so."""
    files[MASKING] = files[MASKING].replace(b"\n", b"\r\n")
    found = identify(files)
    assert found.identity == "verified"
    assert found.remarks == (f"{MASKING} is identical to official's but for line endings (CRLF)",)


def test_extra_training_file_is_modified(files: dict[str, bytes]) -> None:
    """A training file that official never had is reported, since official files could import it."""
    files["dinov2/loss/mine.py"] = b"x = 1\n"
    found = identify(files)
    assert found.identity == "modified"
    assert found.files_total == 45
    assert [(f.path, f.kind) for f in found.modified] == [("dinov2/loss/mine.py", "extra")]
    assert found.modified[0].text() == "dinov2/loss/mine.py is not a file of official training code"


def test_official_files_of_two_commits_are_mixed(files_at_commit: dict[str, bytes]) -> None:
    """April 2023 code with the `__init__.py` of the licence change four months later is of no one commit."""
    files = files_at_commit
    later = files["dinov2/__init__.py"].replace(
        b"# All rights reserved.\n#\n# This source code is licensed under the license found in the\n"
        b"# LICENSE file in the root directory of this source tree.\n",
        b"#\n# This source code is licensed under the Apache License, Version 2.0\n"
        b"# found in the LICENSE file in the root directory of this source tree.\n",
    )
    found = identify({**files, "dinov2/__init__.py": later})
    assert found.identity == "mixed"
    assert found.version == f"mixed; nearest: {APRIL}"
    assert found.files_verified == found.files_total == 44
    assert found.commits == ()
    assert found.remarks == (
        "dinov2/__init__.py is official's of commit 81b2b64 (2023-08-31) to commit b8931f7 (2025-08-14), "
        f"not of {APRIL}",
    )


def test_missing_files_are_listed(files: dict[str, bytes]) -> None:
    """Code that lacks required files is refused, and the files are named."""
    for path in ("dinov2/loss/koleo_loss.py", "dinov2/train/train.py"):
        del files[path]
    with pytest.raises(ReferenceSourceError) as caught:
        identify(files)
    assert "lacks dinov2/loss/koleo_loss.py, dinov2/train/train.py;" in str(caught.value)


def test_long_lists_of_missing_files_are_counted() -> None:
    """An empty tree lacks 44 files: eight are named, 36 counted."""
    with pytest.raises(ReferenceSourceError, match="and 36 more"):
        identify({})


def test_read_files_takes_training_files_only(official_copy: Path) -> None:
    """Byte code, notes and packages that training does not import are left out; the rest is read."""
    before = read_files(official_copy)
    for path in ("dinov2/loss/__pycache__/x.py", "dinov2/loss/notes.txt", "dinov2/eval/mine.py"):
        (official_copy / path).parent.mkdir(parents=True, exist_ok=True)
        (official_copy / path).write_text("x = 1\n")
    assert read_files(official_copy) == before
    assert len(before) == 44
    assert isinstance(identify(before), Identity)


def test_unreadable_folder_is_one_clear_line(tmp_path: Path) -> None:
    """A folder that cannot be listed is named in the error."""
    with pytest.raises(ReferenceSourceError, match="cannot be read"):
        read_files(tmp_path / "nowhere")


def test_a_pipe_is_refused_at_once(official_copy: Path) -> None:
    """A FIFO named like a training file would be waited for without end; the error names it in one line."""
    path = official_copy / MASKING
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ReferenceSourceError, match=r"masking\.py is not a regular file") as caught:
        read_files(official_copy)
    assert "\n" not in str(caught.value)


def test_a_very_long_line_is_cut_in_the_text(files: dict[str, bytes]) -> None:
    """The sentence shows 160 characters and an ellipsis; the record keeps the line, and 160 are shown whole."""
    long, fitting = f"x = '{'a' * 5000}'", f"y = '{'b' * 154}'"
    assert len(fitting) == 160
    files[MASKING] = f"{long}\n{fitting}\n".encode() + files[MASKING]
    (changed,) = identify(files).modified
    assert changed.lines == ((1, long), (2, fitting))
    assert f"line 1: `{long[:160]}…`; line 2: `{fitting}`" in changed.text()
    assert len(changed.text()) < 600
