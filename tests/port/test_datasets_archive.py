from __future__ import annotations

import os
import pickle
import struct
import threading
import zipfile
from pathlib import Path

import pytest
from datasets_files import colour, encoded, labels, relative_names, write_zip

from port.data.datasets import BadImageError
from port.data.datasets.archive import make_zip
from port.data.datasets.folder import make_folder

FILES = {
    "dog/1.png": encoded((10, 0, 0), side=32),
    "cat/b/2.png": encoded((20, 0, 0)),
    "cat/1.jpg": encoded((128, 128, 128), "JPEG"),
    "a/notes.txt": b"none",
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_is_read_like_the_folder_in_it(tmp_path: Path, method: int) -> None:
    """Names, order, classes, labels, counts and pixels equal those of the unpacked folder."""
    path = write_zip(tmp_path / "data.zip", FILES, method)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    folder, packed = make_folder(str(tmp_path / "unpacked")), make_zip(str(path))
    assert relative_names(packed, path) == relative_names(folder, tmp_path / "unpacked")
    assert (packed.classes, labels(packed)) == (folder.classes, labels(folder)) == (["cat", "dog"], [0, 0, 1])
    assert [packed.load(index).tobytes() for index in range(3)] == [folder.load(index).tobytes() for index in range(3)]
    assert packed.describe() == f"3 images, 2 classes, from zip archive {path}; ignored 1 other file (1 .txt)"


def test_what_macos_adds_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    """Resource forks look like images by their names."""
    names = ("x/1.png", "__MACOSX/x/._1.png", "x/._1.png", ".git/2.png", "x/.DS_Store")
    source = make_zip(str(write_zip(tmp_path / "mac.zip", dict.fromkeys(names, encoded()))))
    assert relative_names(source, tmp_path / "mac.zip") == ["x/1.png"]
    assert "ignored" not in source.describe()


def test_names_are_joined_to_the_archives_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name tells the archive and the member; the path stays right when a process changes its folder."""
    write_zip(tmp_path / "data.zip", FILES)
    monkeypatch.chdir(tmp_path)
    source = make_zip("data.zip")
    monkeypatch.chdir("/")
    assert source.name(2) == f"{tmp_path}/data.zip/dog/1.png"
    assert colour(source, 2) == (10, 0, 0)


def test_an_archive_behind_other_data_is_read(tmp_path: Path) -> None:
    """A self-extracting archive has a program in front, which shifts every member."""
    packed = write_zip(tmp_path / "plain.zip", FILES).read_bytes()
    (tmp_path / "data.zip").write_bytes(b"#!/bin/sh\nexit\n" + packed)
    assert colour(make_zip(str(tmp_path / "data.zip")), 1) == (20, 0, 0)


def test_forked_processes_and_threads_share_nothing(tmp_path: Path) -> None:
    """Reading at once in a child and in threads gives each its own image: no handle and no position is shared."""
    files = {f"{number:03}.png": encoded((number, 0, 0)) for number in range(60)}
    source = make_zip(str(write_zip(tmp_path / "data.zip", files)))
    assert colour(source, 0) == (0, 0, 0)
    child = os.fork()
    if child == 0:
        os._exit(sum(colour(source, index)[0] != index for index in range(60)))
    wrong: list[int] = []

    def read(offset: int) -> None:
        order = [(index * 7 + offset) % 60 for index in range(60)]
        wrong.extend(index for index in order if colour(source, index)[0] != index)

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pickled_source_reads_without_the_directory(tmp_path: Path) -> None:
    """A loader process does not list the archive again."""
    source = make_zip(str(write_zip(tmp_path / "data.zip", FILES)))
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - made on the same line
    assert (copy.classes, labels(copy), colour(copy, 2)) == (["cat", "dog"], [0, 0, 1], (10, 0, 0))


def test_a_damaged_member_is_a_bad_image(tmp_path: Path) -> None:
    """Flipped bytes are found by the checksum, even where the image would still decode."""
    path = write_zip(tmp_path / "data.zip", {"1.bmp": encoded(kind="BMP", side=32)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=r"data\.zip/1\.bmp: .*damaged: size or checksum"):
        make_zip(str(path)).load(0)


def test_a_member_that_lies_about_its_size_is_a_bad_image(tmp_path: Path) -> None:
    """No more is unpacked than announced: a megabyte of zeros in a kilobyte stays a kilobyte."""
    path = write_zip(tmp_path / "data.zip", {"1.png": bytes(1_000_000)})
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    path.write_bytes(data[: directory + 24] + struct.pack("<I", 100) + data[directory + 28 :])
    source = make_zip(str(path))
    with pytest.raises(BadImageError, match="size or checksum differ"):
        source.load(0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"XX" + data[2:], "no member where its directory says"),
        (lambda data: data[:45], "ends early"),
        (lambda data: data[:60] + bytes(40) + data[100:], "damaged"),
    ],
    ids=["header", "cut", "compressed-data"],
)
def test_an_archive_that_changed_since_gives_bad_images(tmp_path: Path, change: object, reason: str) -> None:
    """An archive that is damaged while a run reads it makes bad images, not a crash."""
    path = write_zip(tmp_path / "data.zip", {"1.png": os.urandom(500) + bytes(500)})
    source = make_zip(str(path))
    assert callable(change)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadImageError, match=reason):
        source.load(0)


def test_an_archive_that_vanished_gives_bad_images(tmp_path: Path) -> None:
    """The error names the member, and says that it is the archive that cannot be read."""
    path = write_zip(tmp_path / "data.zip", FILES)
    source = make_zip(str(path))
    path.unlink()
    with pytest.raises(BadImageError, match=r"cat/1\.jpg: the archive cannot be read: No such file"):
        source.load(0)


def test_an_encrypted_archive_is_an_error(tmp_path: Path) -> None:
    """One error at the start, rather than a bad image for every member."""
    path = write_zip(tmp_path / "data.zip", {"1.png": encoded()})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"is encrypted \('1\.png'\); unpack it"):
        make_zip(str(path))


def test_a_rare_compression_is_an_error(tmp_path: Path) -> None:
    """The method is named, with those that are read."""
    path = write_zip(tmp_path / "data.zip", {"1.png": encoded()}, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"compressed by method 12, expected 0 \(stored\) or 8"):
        make_zip(str(path))


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04" + bytes(50)], ids=["empty", "text", "cut"])
def test_no_archive_or_a_cut_one_is_an_error(tmp_path: Path, data: bytes) -> None:
    """A download that stopped lacks the directory at its end."""
    (tmp_path / "data.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"no zip archive, or it is damaged .*copy it again"):
        make_zip(str(tmp_path / "data.zip"))


def test_an_archive_without_images_and_a_missing_one_are_errors(tmp_path: Path) -> None:
    """The error says what is in it instead."""
    path = write_zip(tmp_path / "data.zip", {"a.txt": b"", "b.csv": b""})
    with pytest.raises(ValueError, match=r"no image in zip archive .*ignored 2 other files"):
        make_zip(str(path))
    nested = write_zip(tmp_path / "nested.zip", {"inner.zip": path.read_bytes()})
    with pytest.raises(ValueError, match=r"ignored 1 other file \(1 \.zip\); unpack it, for archives inside are not"):
        make_zip(str(nested))
    with pytest.raises(ValueError, match=r"it is empty; give one with \.jpg"):
        make_zip(str(write_zip(tmp_path / "empty.zip", {})))
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.zip"):
        make_zip(str(tmp_path / "gone.zip"))
