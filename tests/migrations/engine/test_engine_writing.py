from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from fakes import fake
from repositories import git

from migrations.engine.discovery import Tree, discover
from migrations.engine.git import check_clean
from migrations.engine.model import Level
from migrations.engine.planning import Plan, plan
from migrations.engine.writing import contents, write
from migrations.errors import RefusedError

CRLF_BOM = b"\xef\xbb\xbfold6()  # \xc3\xa9\r\nold3()\r\n"


def planned(root: Path) -> tuple[Plan, Tree]:
    """The plan of a fake migration for a folder."""
    tree = discover(str(root))
    return plan(tree.project, [fake("0006")], (Level.SAFE,)), tree


def left_behind(root: Path) -> list[str]:
    """Names of files that no test has put there."""
    return [path.name for path in root.rglob("*") if path.suffix == ".tmp"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed project of two files that change and one that does not."""
    root = tmp_path / "fork"
    (root / "sub").mkdir(parents=True)
    for name in ("a.py", "sub/b.py"):
        (root / name).write_text("old6()\n", encoding="utf-8")
    (root / "c.py").write_text("x = 1\n", encoding="utf-8")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "start")
    return root


def texts(root: Path) -> dict[str, str]:
    """The files' contents."""
    return {name: (root / name).read_text(encoding="utf-8") for name in ("a.py", "sub/b.py", "c.py")}


BEFORE = {"a.py": "old6()\n", "sub/b.py": "old6()\n", "c.py": "x = 1\n"}
AFTER = {"a.py": "new6()\n", "sub/b.py": "new6()\n", "c.py": "x = 1\n"}


def refused(root: Path, match: str, *, allow_dirty: bool = True) -> None:
    """Assert that writing is refused and that nothing changed."""
    before = texts(root)
    made, tree = planned(root)
    with pytest.raises(RefusedError, match=match):
        write(made, tree, allow_dirty=allow_dirty)
    assert texts(root) == before
    assert left_behind(root) == []


def test_a_committed_project_is_written(repository: Path) -> None:
    """Only what changes is touched, and nothing else is left behind."""
    made, tree = planned(repository)
    assert write(made, tree) == ("a.py", "sub/b.py")
    assert texts(repository) == AFTER
    assert left_behind(repository) == []


def test_bytes_around_an_edit_stay(tmp_path: Path) -> None:
    """Byte order mark, CRLF, accents and mode bits are those from before."""
    path = tmp_path / "a.py"
    path.write_bytes(CRLF_BOM)
    path.chmod(0o755)
    write(*planned(tmp_path), allow_dirty=True)
    assert path.read_bytes() == CRLF_BOM.replace(b"old6", b"new6")
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_declared_encoding_stays(tmp_path: Path) -> None:
    """A Latin-1 file is written in Latin-1."""
    path = tmp_path / "a.py"
    path.write_bytes(b"# coding: latin-1\nold6('\xe9')\n")
    write(*planned(tmp_path), allow_dirty=True)
    assert path.read_bytes() == b"# coding: latin-1\nnew6('\xe9')\n"


def test_a_character_that_the_encoding_lacks_is_refused(tmp_path: Path) -> None:
    """The new text's π does not exist in Latin-1: better nothing than a question mark."""
    path = tmp_path / "a.py"
    path.write_bytes(b"# coding: latin-1\nold6()\n")
    made, tree = planned(tmp_path)
    file = made.end.files["a.py"]
    file.text = file.text.replace("new6()", "new6('π')")
    with pytest.raises(RefusedError, match="its encoding iso-8859-1 has no 'π'"):
        contents(made, tree)
    with pytest.raises(RefusedError, match="nothing was written"):
        write(made, tree, allow_dirty=True)
    assert path.read_bytes() == b"# coding: latin-1\nold6()\n"


@pytest.mark.parametrize("change", ["edited", "deleted", "replaced by a folder"])
def test_a_file_that_changed_since_it_was_read_is_refused(repository: Path, change: str) -> None:
    """Between reading and writing the owner saved a file: their work wins, and no other file is written either."""
    made, tree = planned(repository)
    path = repository / "sub" / "b.py"
    path.unlink()
    if change == "edited":
        path.write_text("old6()\nmine = 1\n", encoding="utf-8")
    elif change == "replaced by a folder":
        path.mkdir()
    with pytest.raises(RefusedError, match="run again"):
        write(made, tree, allow_dirty=True)
    assert (repository / "a.py").read_text(encoding="utf-8") == "old6()\n"
    assert left_behind(repository) == []


def test_a_file_that_changes_at_the_last_moment_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved between the first replacement and the second: the first is taken back."""
    made, tree = planned(repository)
    replace = Path.replace
    other = repository / "sub" / "b.py"

    def racing(path: Path, target: Path) -> Path:
        if target.name == "a.py" and "mine" not in other.read_text(encoding="utf-8"):
            other.write_text("mine = 1\n", encoding="utf-8")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", racing)
    with pytest.raises(RefusedError, match="has changed since it was read"):
        write(made, tree, allow_dirty=True)
    assert texts(repository) == {**BEFORE, "sub/b.py": "mine = 1\n"}
    assert left_behind(repository) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
def test_a_replacement_that_fails_is_taken_back(
    repository: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """All files or none: the one already replaced gets its old bytes, and the error says so."""
    made, tree = planned(repository)
    replace = Path.replace
    calls = 0

    def failing(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    expected = RefusedError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        write(made, tree, allow_dirty=True)
    if isinstance(error, OSError):
        assert "could not be replaced (No space left on device); every file is as before" in str(raised.value)
    assert texts(repository) == BEFORE
    assert left_behind(repository) == []


def test_a_file_that_cannot_be_restored_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one case in which something is left changed is said plainly."""
    made, tree = planned(repository)
    replace = Path.replace
    calls = 0

    def failing(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(5, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(RefusedError, match=r"a\.py holds its new content and could not be restored .* with git"):
        write(made, tree, allow_dirty=True)


def test_a_full_disk_before_the_first_replacement(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files are complete before any file is replaced."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(repository, "No space left on device")


def test_a_read_only_file_is_refused(repository: Path) -> None:
    """Also for root, who could write it: the bits say what is meant."""
    (repository / "sub" / "b.py").chmod(0o444)
    refused(repository, r"sub/b\.py is read-only; `chmod u\+w`")


def test_a_link_is_refused(repository: Path, tmp_path: Path) -> None:
    """A file outside of the named folder is not changed through a link in it."""
    outside = tmp_path / "outside.py"
    outside.write_text("old6()\n", encoding="utf-8")
    (repository / "link.py").symlink_to(outside)
    refused(repository, r"link\.py is a link to .*outside\.py")
    assert outside.read_text(encoding="utf-8") == "old6()\n"


def test_a_hard_link_is_refused(repository: Path, tmp_path: Path) -> None:
    """Replacing one name of a file would part it from the others."""
    os.link(repository / "a.py", tmp_path / "other.py")
    refused(repository, r"a\.py has 2 hard links")


@pytest.mark.parametrize("kind", ["modified", "staged", "untracked", "ignored"])
def test_what_git_could_not_bring_back_is_refused(repository: Path, kind: str) -> None:
    """Changes that are not committed, and files that git does not know, would be lost."""
    path = repository / "sub" / "b.py"
    if kind in ("untracked", "ignored"):
        git(repository, "rm", "-q", "--cached", "sub/b.py")
        (repository / ".gitignore").write_text("sub/\n" if kind == "ignored" else "", encoding="utf-8")
        git(repository, "add", ".gitignore")
        git(repository, "commit", "-qm", "forget it")
        refused(repository, r"b\.py is not tracked by git.*--allow-dirty", allow_dirty=False)
        return
    path.write_text("old6()\n# mine\n", encoding="utf-8")
    if kind == "staged":
        git(repository, "add", "-A")
    refused(repository, r"b\.py has uncommitted changes; commit first, or pass --allow-dirty", allow_dirty=False)


def test_other_files_may_be_dirty(repository: Path) -> None:
    """Only what would be changed counts."""
    (repository / "c.py").write_text("x = 2\n", encoding="utf-8")
    (repository / "new.py").write_text("y = 2\n", encoding="utf-8")
    assert write(*planned(repository)) == ("a.py", "sub/b.py")


def test_no_repository_is_refused(tmp_path: Path) -> None:
    """There would be no way back; the option says that there is another copy."""
    (tmp_path / "a.py").write_text("old6()\n", encoding="utf-8")
    made, tree = planned(tmp_path)
    with pytest.raises(RefusedError, match=r"is in no git repository .* pass --allow-dirty"):
        write(made, tree)
    write(made, tree, allow_dirty=True)
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "new6()\n"


def test_no_git_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git says so."""
    monkeypatch.setenv("PATH", "")
    refused(repository, "git cannot be run .* pass --allow-dirty", allow_dirty=False)


def test_names_are_no_patterns_and_hooks_do_not_run(tmp_path: Path) -> None:
    """`a[1].py` means itself; a file-system monitor that a repository configures is not started by looking."""
    (tmp_path / "a[1].py").write_text("x\n", encoding="utf-8")
    (tmp_path / "a1.py").write_text("x\n", encoding="utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a1.py")
    git(tmp_path, "commit", "-qm", "one")
    with pytest.raises(RefusedError, match=r"a\[1\]\.py is not tracked"):
        check_clean([tmp_path / "a[1].py"])
    witness = tmp_path / "ran"
    hook = tmp_path / "monitor.sh"
    hook.write_text(f"#!/bin/sh\ntouch {witness}\n", encoding="utf-8")
    hook.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(hook))
    check_clean([tmp_path / "a1.py"])
    assert not witness.exists()


def test_nothing_to_write_needs_no_git(tmp_path: Path) -> None:
    """An aligned folder outside of git is no error."""
    (tmp_path / "a.py").write_text("new6()\n", encoding="utf-8")
    assert write(*planned(tmp_path)) == ()
