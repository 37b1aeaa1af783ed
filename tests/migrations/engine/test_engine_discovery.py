from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrations.engine.discovery import MAX_BYTES, Tree, discover
from migrations.errors import UsageError


def put(root: Path, *paths: str, text: str = "x = 1\n") -> None:
    """Write files below a folder."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def remarks(tree: Tree) -> list[str]:
    """The remarks as they are printed."""
    return [str(remark) for remark in tree.remarks]


def test_python_files_below_a_folder(tmp_path: Path) -> None:
    """Paths are relative with forward slashes; other files are no matter."""
    put(tmp_path, "b.py", "a/c.py", "a/d/e.py", "README.md", "a/f.pyi")
    tree = discover(str(tmp_path))
    assert list(tree.project.files) == ["a/c.py", "a/d/e.py", "b.py"]
    assert tree.remarks == []


def test_one_file(tmp_path: Path) -> None:
    """A file is a project of its own, relative to its folder."""
    put(tmp_path, "a/b.py", "a/c.py")
    tree = discover(str(tmp_path / "a" / "b.py"))
    assert list(tree.project.files) == ["b.py"]
    assert tree.root == (tmp_path / "a").resolve()


@pytest.mark.parametrize("folder", [".git", "node_modules", "__pycache__", ".venv", "build", "dist", "x.egg-info"])
def test_folders_that_hold_no_source_of_the_project(tmp_path: Path, folder: str) -> None:
    """They are left out, and counted."""
    put(tmp_path, "a.py", f"b/{folder}/c.py")
    tree = discover(str(tmp_path))
    assert list(tree.project.files) == ["a.py"]
    assert tree.folders == [f"b/{folder}"]


def test_an_environment_of_any_name(tmp_path: Path) -> None:
    """`pyvenv.cfg` makes a virtual environment, `conda-meta` one of conda."""
    put(tmp_path, "a.py", "my-env/pyvenv.cfg", "my-env/lib/b.py", "other/conda-meta/history", "other/c.py")
    assert list(discover(str(tmp_path)).project.files) == ["a.py"]


def test_a_package_called_build_is_source(tmp_path: Path) -> None:
    """What a build leaves has no `__init__.py` of its own."""
    put(tmp_path, "build/__init__.py", "build/a.py")
    assert list(discover(str(tmp_path)).project.files) == ["build/__init__.py", "build/a.py"]


def test_a_path_inside_of_a_skipped_folder_is_meant(tmp_path: Path) -> None:
    """Who names a package in site-packages wants it looked at."""
    put(tmp_path, ".venv/lib/site-packages/timm/a.py")
    tree = discover(str(tmp_path / ".venv" / "lib" / "site-packages"))
    assert list(tree.project.files) == ["timm/a.py"]


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    """Neither circles nor data sets are walked through; the remark says where a link leads."""
    put(tmp_path, "fork/a.py", "data/b.py")
    (tmp_path / "fork" / "loop").symlink_to(tmp_path / "fork", target_is_directory=True)
    (tmp_path / "fork" / "data").symlink_to(tmp_path / "data", target_is_directory=True)
    tree = discover(str(tmp_path / "fork"))
    assert list(tree.project.files) == ["a.py"]
    assert remarks(tree) == [
        f"data: link to the folder {tmp_path.resolve() / 'data'}, not followed",
        f"loop: link to the folder {tmp_path.resolve() / 'fork'}, not followed",
    ]


def test_links_to_files(tmp_path: Path) -> None:
    """Inside of the project the target is looked at, once; from outside the link is; a circle is said to be one."""
    put(tmp_path, "fork/a.py", "b.py")
    (tmp_path / "fork" / "same.py").symlink_to("a.py")
    (tmp_path / "fork" / "outside.py").symlink_to("../b.py")
    (tmp_path / "fork" / "circle.py").symlink_to("circle.py")
    tree = discover(str(tmp_path / "fork"))
    assert list(tree.project.files) == ["a.py", "outside.py"]
    assert tree.found["outside.py"].is_link
    assert not tree.found["a.py"].is_link
    assert remarks(tree) == [
        "circle.py: link that leads nowhere or in a circle",
        "same.py: link to a.py, looked at there",
    ]


def test_a_path_that_is_itself_a_link(tmp_path: Path) -> None:
    """The folder that it leads to is the root, so that its files are no links."""
    put(tmp_path, "fork/a.py")
    (tmp_path / "link").symlink_to("fork", target_is_directory=True)
    tree = discover(str(tmp_path / "link"))
    assert tree.root == (tmp_path / "fork").resolve()
    assert not tree.found["a.py"].is_link


def test_a_file_of_ten_megabytes(tmp_path: Path) -> None:
    """Generated: not read, one line; a file of exactly the limit is read."""
    put(tmp_path, "a.py")
    (tmp_path / "huge.py").write_bytes(b"x = 1\n" * 1_700_000)
    (tmp_path / "limit.py").write_bytes(b"#" * MAX_BYTES)
    tree = discover(str(tmp_path))
    assert list(tree.project.files) == ["a.py", "limit.py"]
    assert remarks(tree) == ["huge.py: skipped, 10.2 MB is more than 2 MB: generated, or data"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"x = 1\0", "zero bytes"),
        (b"\n\n\nx = '\xff'\n", "not in its encoding"),
        (b"# coding: no-such\n", "its encoding is not known"),
        (b"# coding: rot13\n", "its encoding is not known"),
        (b"# coding: utf-7\nx = '+AOk-'\ny = 'a+-b'\nz = '~'\n", "utf-7"),
    ],
    ids=["binary", "latin", "unknown", "no text encoding", "no way back"],
)
def test_junk_is_skipped_with_a_line(tmp_path: Path, data: bytes, why: str) -> None:
    """One file that cannot be read stops nothing."""
    put(tmp_path, "a.py")
    (tmp_path / "junk.py").write_bytes(data)
    tree = discover(str(tmp_path))
    assert list(tree.project.files) == ["a.py"]
    assert len(tree.remarks) == 1
    assert str(tree.remarks[0]).startswith("junk.py: ")
    assert why in str(tree.remarks[0])


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    put(tmp_path, "a.py")
    os.mkfifo(tmp_path / "pipe.py")
    assert remarks(discover(str(tmp_path))) == ["pipe.py: not a regular file"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable file and an unreadable folder are a line each."""
    put(tmp_path, "a.py", "secret.py", "locked/b.py")
    read, scan = Path.read_bytes, os.scandir

    def read_bytes(path: Path) -> bytes:
        if path.name == "secret.py":
            raise PermissionError(13, "Permission denied")
        return read(path)

    def scandir(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    # Root, as which tests may run, has every permission.
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(os, "scandir", scandir)
    tree = discover(str(tmp_path))
    assert list(tree.project.files) == ["a.py"]
    assert remarks(tree) == [
        "secret.py: cannot be read, Permission denied",
        "locked: folder cannot be read, Permission denied",
    ]


def test_encodings_and_marks_are_kept(tmp_path: Path) -> None:
    """What is written later must be what was read."""
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    (tmp_path / "b.py").write_bytes(b"# coding: latin-1\nx = '\xe9'\n")
    tree = discover(str(tmp_path))
    for name, encoding in (("a.py", "utf-8-sig"), ("b.py", "iso-8859-1")):
        file = tree.project.files[name]
        assert file.encoding == encoding
        assert file.text.encode(file.encoding) == (tmp_path / name).read_bytes() == tree.found[name].data


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    """It is shown with escapes, and the file is still found under its real name."""
    name = os.fsdecode(b"caf\xe9.py")
    put(tmp_path, "a.py", name)
    tree = discover(str(tmp_path))
    assert list(tree.project.files) == ["a.py", "caf\\xe9.py"]
    assert tree.found["caf\\xe9.py"].path.name == name


@pytest.mark.parametrize("name", ["nothing", "empty", "text"])
def test_nothing_to_look_at_is_an_error(tmp_path: Path, name: str) -> None:
    """A path that does not exist, a folder without Python, one whose files cannot be read: each says what to give."""
    (tmp_path / "empty").mkdir()
    put(tmp_path, "text/README.md")
    with pytest.raises(UsageError, match="give the folder that holds your training code"):
        discover(str(tmp_path / name))


def test_nothing_readable_says_why(tmp_path: Path) -> None:
    """The first remark is part of the message."""
    (tmp_path / "junk.py").write_bytes(b"\0")
    with pytest.raises(UsageError, match=r"junk\.py: skipped, holds zero bytes"):
        discover(str(tmp_path))
