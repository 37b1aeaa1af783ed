from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
from datasets_files import colour, encoded, labels, relative_names, write_images, write_tree

from port.data.datasets import BadImageError, make_dataset
from port.data.datasets.folder import make_folder


def test_classes_are_the_folders_of_the_first_level(tmp_path: Path) -> None:
    """Images in subfolders are labelled by the first folder, however deep they lie; classes are sorted."""
    write_images(tmp_path, "dog/1.png", "cat/b/2.png", "cat/1.png", "ant/x/y/1.JPG")
    source = make_folder(str(tmp_path))
    assert source.classes == ["ant", "cat", "dog"]
    assert relative_names(source, tmp_path) == ["ant/x/y/1.JPG", "cat/1.png", "cat/b/2.png", "dog/1.png"]
    assert labels(source) == [0, 1, 1, 2]


def test_images_at_the_top_level_make_it_unlabelled(tmp_path: Path) -> None:
    """One image beside the subfolders says that these are no classes; nothing is lost."""
    write_images(tmp_path, "dog/1.png", "cat/1.png", "x.png")
    source = make_folder(str(tmp_path))
    assert source.classes == []
    assert relative_names(source, tmp_path) == ["cat/1.png", "dog/1.png", "x.png"]
    assert labels(source) == [None, None, None]


def test_a_lone_folder_of_folders_is_looked_through(tmp_path: Path) -> None:
    """The folder that an archive was packed in is no class; a lone folder with images in it is."""
    write_images(tmp_path / "packed", "data/all/cat/1.png", "data/all/dog/1.png")
    write_images(tmp_path / "one", "cat/1.png", "cat/x/1.png")
    assert make_folder(str(tmp_path / "packed")).classes == ["cat", "dog"]
    assert make_folder(str(tmp_path / "one")).classes == ["cat"]


def test_the_order_is_that_of_components(tmp_path: Path) -> None:
    """A folder's files stay together, capitals come first, and composed letters sort as such on every system."""
    write_images(tmp_path, "a/z.png", "a-b/y.png", "B/x.png", "e\u0301/1.png", "\u00e8/1.png", "z/1.png")
    names = relative_names(make_folder(str(tmp_path)), tmp_path)
    # U+00E8 is below U+00E9, which the decomposed pair stands for; undone, "e" + U+0301 would come before "z".
    assert names == ["B/x.png", "a/z.png", "a-b/y.png", "z/1.png", "\u00e8/1.png", "e\u0301/1.png"]


def test_other_files_are_counted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    """`describe` says how many files are no images by their extension; a dot in front hides a file or folder."""
    write_images(tmp_path, "a/1.png", "a/.2.png", ".cache/3.png", "b/1.jpg")
    write_tree(tmp_path, {"a/notes.txt": b"", "b/more.txt": b"", "README": b"", "slide.svs": b"", ".DS_Store": b""})
    source = make_folder(str(tmp_path))
    assert len(source) == 2
    assert source.describe() == (
        f"2 images, 2 classes, from folder {tmp_path}; ignored 4 other files (2 .txt, 1 without extension, 1 .svs)"
    )


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """A link into a folder above ends; one to a folder elsewhere counts; one to nowhere is reported on loading."""
    write_images(tmp_path / "elsewhere", "9.png")
    root = write_images(tmp_path / "root", "a/1.png", "a/b/2.png")
    (root / "a/b/up").symlink_to(root, target_is_directory=True)
    (root / "a/b/self").symlink_to(root / "a/b", target_is_directory=True)
    (root / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "c2.png").symlink_to(tmp_path / "nowhere.png")
    source = make_folder(str(root))
    assert relative_names(source, root) == ["a/1.png", "a/b/2.png", "c/9.png", "c2.png"]
    with pytest.raises(BadImageError, match=r"c2\.png: .*leads nowhere"):
        source.load(3)


def test_links_in_a_circle_are_bad_images(tmp_path: Path) -> None:
    """A link to itself, which the system refuses to follow, spoils no other image: it is one that cannot be read."""
    write_images(tmp_path, "a/1.png")
    (tmp_path / "a/2.png").symlink_to("2.png")
    (tmp_path / "b").symlink_to("b")
    source = make_folder(str(tmp_path))
    assert relative_names(source, tmp_path) == ["a/1.png", "a/2.png"]
    assert "ignored 1 other file " in source.describe()
    with pytest.raises(BadImageError, match=r"2\.png: cannot be read: Too many levels of symbolic links"):
        source.load(1)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """A named pipe with an image's extension would block for ever; it is ignored."""
    write_images(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to(tmp_path / "2.png")
    assert relative_names(make_folder(str(tmp_path)), tmp_path) == ["1.png"]


def test_a_name_that_is_no_utf8_can_be_read(tmp_path: Path) -> None:
    """File names are bytes on Linux; an undecodable one is read like any other."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png")).write_bytes(encoded((1, 2, 3)))
    source = make_folder(str(tmp_path))
    assert colour(source, 0) == (1, 2, 3)


def test_a_folder_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A subfolder without permission is left out, with a warning and a note (root may open all, so it is planted)."""
    write_images(tmp_path, "a/1.png", "b/1.png")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path == str(tmp_path / "b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with caplog.at_level(logging.WARNING, logger="port"):
        source = make_folder(str(tmp_path))
    assert relative_names(source, tmp_path) == ["a/1.png"]
    assert f"{tmp_path / 'b'} cannot be opened and is left out: Permission denied" in caplog.text
    assert f"could not be opened, the first is {tmp_path / 'b'}" in source.describe()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "it is empty"),
        ({".a.png": b""}, "hidden files only"),
        ({"a.txt": b"", "b/c.csv": b""}, "ignored 2 other files"),
        ({"0.tar": b"", "1.tar": b""}, r"for tar shards give 'wds:.*/\*\.tar'"),
        ({"x.zip": b""}, "zip archive give its own path"),
    ],
)
def test_a_folder_without_images_is_an_error(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    """The error says what is there instead, and what to do."""
    write_tree(tmp_path, files)
    with pytest.raises(ValueError, match=f"(?s)no image in folder.*{words}"):
        make_folder(str(tmp_path))


def test_a_missing_folder_and_a_file_are_errors(tmp_path: Path) -> None:
    """The path is named, and what was expected of it."""
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone"):
        make_folder(str(tmp_path / "gone"))
    write_images(tmp_path, "x.png")
    with pytest.raises(NotADirectoryError, match="is a file; expected a folder"):
        make_folder(str(tmp_path / "x.png"))


def test_the_home_folder_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder; a relative path stays right when a process later changes its folder."""
    write_images(tmp_path, "data/1.png", "elsewhere/x.txt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_folder("~/data").name(0) == str(tmp_path / "data/1.png")
    monkeypatch.chdir(tmp_path)
    source = make_folder("data")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert source.load(0).size == (4, 4)


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_out_of_range_is_an_index_error(tmp_path: Path, index: int) -> None:
    """A negative index does not count from the end: it would hide a mistake in a sampler."""
    write_images(tmp_path, "a/1.png", "a/2.png")
    source = make_folder(str(tmp_path))
    for access in (source.load, source.name, source.label):
        with pytest.raises(IndexError, match="out of range for 2"):
            access(index)


def test_a_pickled_source_is_the_same(tmp_path: Path) -> None:
    """What a loader process receives reads the same images."""
    write_tree(tmp_path, {"a/1.png": encoded((9, 8, 7)), "b/1.png": encoded((1, 1, 1))})
    source = make_folder(str(tmp_path))
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - made on the same line
    assert relative_names(copy, tmp_path) == relative_names(source, tmp_path)
    assert (copy.classes, labels(copy), colour(copy, 0)) == (["a", "b"], [0, 1], (9, 8, 7))


def test_a_spawned_process_reads_the_same_names(tmp_path: Path) -> None:
    """The order does not hang on a process: another one, with another hash seed, lists the same."""
    write_images(tmp_path, *(f"{letter}/{number}.png" for letter in "zyxab" for number in range(3)))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(_names_there, (str(tmp_path),))
    assert there == relative_names(make_folder(str(tmp_path)), tmp_path)


def _names_there(path: str) -> list[str]:
    return relative_names(make_dataset(path), Path(path))
