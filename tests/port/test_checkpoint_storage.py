from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from checkpoint_runs import flip_byte

from port.checkpoint import storage


def checkpoint(folder: Path, name: str = "step_000000001", content: bytes = b"content") -> Path:
    """Write a folder with two files and their manifest."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "data").write_bytes(content)
    (path / "empty").write_bytes(b"")
    storage.write_manifest(path, storage.describe_files(path.iterdir()))
    return path


def test_names_sort_as_numbers(tmp_path: Path) -> None:
    """The newest is the one of the highest iteration, even where that has more than nine digits."""
    for iteration in (7, 1_234_567_890, 12):
        (tmp_path / storage.checkpoint_name(iteration)).mkdir()
    names = [path.name for path in storage.find_checkpoints(tmp_path)]
    assert names == ["step_1234567890", "step_000000012", "step_000000007"]


def test_only_checkpoints_are_found(tmp_path: Path) -> None:
    """Files, temporary folders, damaged ones and other names are no checkpoints; no folder holds none."""
    for name in (".tmp-step_000000001-7", "step_000000002.damaged", "step_3", "eval", "step_000000004.replaced"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_000000009").write_text("a file")
    assert [path.name for path in storage.find_checkpoints(tmp_path)] == ["step_000000004.replaced"]
    assert storage.find_checkpoints(tmp_path / "absent") == []


def test_replaced_one_comes_after_its_successor(tmp_path: Path) -> None:
    """Of two folders of one iteration, the one that was to be replaced is the second choice."""
    for name in ("step_000000004.replaced", "step_000000004", "step_000000003"):
        (tmp_path / name).mkdir()
    names = [path.name for path in storage.find_checkpoints(tmp_path)]
    assert names == ["step_000000004", "step_000000004.replaced", "step_000000003"]


def test_manifest_holds_size_and_sha256(tmp_path: Path) -> None:
    """The manifest's numbers are those that the standard library gives."""
    path = checkpoint(tmp_path, content=b"x" * 3_000_000)
    assert json.loads((path / "manifest.json").read_text())["files"] == {
        "data": {"size": 3_000_000, "sha256": hashlib.sha256(b"x" * 3_000_000).hexdigest()},
        "empty": {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()},
    }


def test_sound_checkpoint_has_no_damage(tmp_path: Path) -> None:
    """A complete folder is sound, also with a file more than the manifest names."""
    path = checkpoint(tmp_path)
    (path / "notes.txt").write_text("mine")
    assert storage.find_damage(path) is None


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """No byte of a file or of the manifest can be inverted unnoticed."""
    path = checkpoint(tmp_path)
    for name in ("data", "manifest.json"):
        original = (path / name).read_bytes()
        for position in range(len(original)):
            flip_byte(path / name, position)
            assert storage.find_damage(path) is not None, (name, position)
            (path / name).write_bytes(original)


def test_damage_is_named(tmp_path: Path) -> None:
    """A missing file, a truncated one, other content and a broken manifest are each named with the file."""
    path = checkpoint(tmp_path)
    flip_byte(path / "data", 0)
    assert "data does not have the content that was written" in str(storage.find_damage(path))
    (path / "data").write_bytes(b"cont")
    assert storage.find_damage(path) == "data has 4 bytes, expected 7"
    (path / "data").unlink()
    assert storage.find_damage(path) == "data is missing"
    (path / "manifest.json").write_text("{")
    assert "manifest.json is not valid" in str(storage.find_damage(path))
    (path / "manifest.json").unlink()
    assert storage.find_damage(path) == "manifest.json is missing"


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"files": []}', '{"files": {"data": 7}}', '{"files": {"\\u0000": 1}}']
)
def test_manifest_of_another_form_is_damage(tmp_path: Path, manifest: str) -> None:
    """Valid JSON that is no manifest is damage, not a crash."""
    path = checkpoint(tmp_path)
    (path / "manifest.json").write_text(manifest)
    assert "manifest.json is not valid" in str(storage.find_damage(path))


def test_empty_manifest_is_damage(tmp_path: Path) -> None:
    """A manifest that names no file vouches for nothing."""
    path = checkpoint(tmp_path)
    (path / "manifest.json").write_text('{"files": {}}')
    assert storage.find_damage(path) == "manifest.json names no file"


def test_unreadable_file_is_damage(tmp_path: Path) -> None:
    """A file that the disk cannot give back is damage that names the reason."""
    path = checkpoint(tmp_path)
    (path / "data").unlink()
    (path / "data").symlink_to(path / "data")
    assert "a file cannot be read" in str(storage.find_damage(path))


def test_publishing_syncs_before_and_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary folder is on the disk before it is renamed, and the new name after."""
    temporary, target = checkpoint(tmp_path, ".tmp-a"), tmp_path / "step_000000001"
    order: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name + (" renamed" if target.exists() else ""))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    storage.publish(temporary, target)
    assert order == [".tmp-a", f"{tmp_path.name} renamed"]


def test_file_systems_that_cannot_sync_folders_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINVAL for a folder is passed over, a disk's error is not."""

    def refuse(number: int) -> None:
        def fail(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)

    target = tmp_path / "step_000000001"
    refuse(errno.EIO)
    temporary = tmp_path / ".tmp-a"
    temporary.mkdir()
    with pytest.raises(OSError, match="Input/output error"):
        storage.publish(temporary, target)
    assert not target.exists()
    refuse(errno.EINVAL)
    storage.publish(temporary, target)
    assert target.is_dir()


def test_sound_one_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    """The new content bears the name, and nothing of the old one is left, nor of an earlier replacement."""
    checkpoint(tmp_path, "step_000000001", b"old")
    checkpoint(tmp_path, "step_000000001.replaced", b"older")
    storage.publish(checkpoint(tmp_path, ".tmp-a", b"new"), tmp_path / "step_000000001")
    assert (tmp_path / "step_000000001" / "data").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]


def test_damaged_ones_of_the_same_name_stay(tmp_path: Path) -> None:
    """Damaged folders make way but are kept, each under a name of its own."""
    target = tmp_path / "step_000000001"
    for content in (b"first", b"second", b"third"):
        storage.publish(checkpoint(tmp_path, ".tmp-a", content), target)
        flip_byte(target / "data", 0)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step_000000001", "step_000000001.damaged", "step_000000001.damaged-2"]
    assert (tmp_path / "step_000000001.damaged" / "data").read_bytes()[1:] == b"irst"


def test_leftovers_go(tmp_path: Path) -> None:
    """Temporary folders and files of killed processes are removed, and nothing else."""
    checkpoint(tmp_path)
    checkpoint(tmp_path, ".tmp-step_000000002-123")
    (tmp_path / ".tmp-probe-4").write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    storage.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "step_000000001"]


def test_folder_that_cannot_be_removed_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Failing to remove an old checkpoint does not stop a run; the folder no longer passes for a checkpoint."""

    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    with caplog.at_level(logging.WARNING, "port"):
        storage.remove(checkpoint(tmp_path))
    assert "step_000000001 could not be removed: [Errno 13] Permission denied" in caplog.text
    assert storage.find_checkpoints(tmp_path) == []
