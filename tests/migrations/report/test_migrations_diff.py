"""Patches are what `git apply` takes, byte for byte."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from migrations.engine.project import Project
from migrations.report.diff import as_patch, between

CASES = {
    "plain": (b"a\nb\nc\n", b"a\nB\nc\n"),
    "crlf": (b"a\r\nb\r\n", b"a\r\nB\r\n"),
    "mixed": (b"a\nb\r\nc\n", b"a\nB\r\nc\n"),
    "no last line end": (b"a\nb", b"a\nB"),
    "gains a last line end": (b"a\nb", b"a\nb\n"),
    "loses the last line end": (b"a\nb\n", b"a\nb"),
    "latin-1": (b"# \xe9\nb\n", b"# \xe9\nB\n"),
    "byte order mark": (b"\xef\xbb\xbfa\nb\n", b"\xef\xbb\xbfA\nb\n"),
    "dashes": (b"a\n-- b\n++ c\n", b"a\nx\n"),
    "emptied": (b"a\n", b""),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("path", ["a.py", "b c/d e.py", "é.py"])
def test_git_applies_a_patch_to_the_byte(tmp_path: Path, name: str, path: str) -> None:
    """The file becomes what the plan would have written, whatever its bytes and its name."""
    old, new = CASES[name]
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(old)
    (tmp_path / "p.patch").write_bytes(as_patch({path: (old, new)}))
    command = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "p.patch"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert place.read_bytes() == new


def test_a_patch_of_several_files(tmp_path: Path) -> None:
    """One after the other, in one patch."""
    contents = dict.fromkeys(("a.py", "b.py"), (b"old\n", b"new\n"))
    for name in contents:
        (tmp_path / name).write_bytes(b"old\n")
    (tmp_path / "p.patch").write_bytes(as_patch(contents))
    subprocess.run(["git", "apply", "p.patch"], cwd=tmp_path, check=True)  # noqa: S607 - the user's own git
    assert [(tmp_path / name).read_bytes() for name in contents] == [b"new\n"] * 2


def test_between_projects_only_changed_files_are_shown() -> None:
    """Files that are the same text are no part of the diff."""
    before = Project.of_texts({"a.py": "x = 1\n", "b.py": "y = 1\n"})
    after = Project.of_texts({"a.py": "x = 2\n", "b.py": "y = 1\n"})
    assert list(between(before, after)) == ["--- a/a.py", "+++ b/a.py", "@@ -1 +1 @@", "-x = 1", "+x = 2"]
