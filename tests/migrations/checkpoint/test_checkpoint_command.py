from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_checkpoints import fork_checkpoint

from migrations.commands import checkpoint


def run(*words: str | Path) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser()
    checkpoint.add(parser.add_subparsers())
    arguments = parser.parse_args(["checkpoint", *map(str, words)])
    return checkpoint.run(arguments)


def names_in(folder: Path) -> list[str]:
    """Return what a folder holds, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A fork's checkpoint on the disk."""
    path = tmp_path / "checkpoint.pth"
    torch.save(fork_checkpoint(steps=1), path)
    return path


def test_a_dry_run_shows_names_shapes_and_flags_and_writes_nothing(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --write: each name's change with its shape, each flag that goes, exit code 1, no new file."""
    assert run(saved, "--out", saved.with_name("new.pth")) == 1
    shown = capsys.readouterr().out
    assert "module.backbone.blocks.{0…1}.attn.qkv.weight  -> backbone.blocks.{0…1}.attn.qkv.weight  (48, 16)" in shown
    assert "args.token_mask_ratio = 0.3 goes: not converted" in shown
    assert "args.clustering_mode = 'masked' goes" in shown
    assert "optimizer: 51 parameters keep their moments and steps" in shown
    assert shown.splitlines()[-1].startswith("nothing was written; --write makes")
    assert names_in(saved.parent) == ["checkpoint.pth"]


def test_write_makes_a_new_file_and_leaves_the_old(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --write: exit code 0, the old file's bytes as before, the new one read with weights_only."""
    before = saved.read_bytes()
    new = saved.with_name("new.pth")
    assert run(saved, "--out", new, "--write", "--set", "mask_ratio_min=0.1") == 0
    assert saved.read_bytes() == before
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(new, weights_only=True)
    assert content["args"].mask_ratio_min == pytest.approx(0.1)
    assert not hasattr(content["args"], "token_mask_ratio")
    assert content["epoch"] == 7
    assert names_in(saved.parent) == ["checkpoint.pth", "new.pth"]
    assert "written" in capsys.readouterr().out


def test_the_way_back_on_the_disk(saved: Path, tmp_path: Path) -> None:
    """--downgrade writes a file whose tensors, groups and flags are the first file's."""
    assert run(saved, "--out", tmp_path / "new.pth", "--write") == 0
    assert run(tmp_path / "new.pth", "--out", tmp_path / "back.pth", "--downgrade", "--write") == 0
    with torch.serialization.safe_globals([argparse.Namespace]):
        old, back = (torch.load(tmp_path / name, weights_only=True) for name in ("checkpoint.pth", "back.pth"))
    assert list(back) == list(old)
    assert vars(back["args"]) == vars(old["args"])
    assert list(back["student"]) == list(old["student"])
    assert all(torch.equal(back["student"][name], value) for name, value in old["student"].items())
    assert back["optimizer"]["param_groups"] == old["optimizer"]["param_groups"]
    for number, entry in old["optimizer"]["state"].items():
        assert all(torch.equal(back["optimizer"]["state"][number][key], value) for key, value in entry.items())


def test_json_lists_every_name(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--format json gives every tensor of both networks, with shapes, and the exit code."""
    assert run(saved, "--out", saved.with_name("new.pth"), "--format", "json") == 1
    document = json.loads(capsys.readouterr().out)
    assert len(document["renamed"]) == 2 * 51
    assert document["renamed"][0] == {
        "network": "student",
        "old": "module.backbone.cls_token",
        "new": "backbone.cls_token",
        "shape": [1, 1, 16],
    }
    assert (document["written"], document["exit_code"], document["changed"]) == (None, 1, True)


@pytest.mark.parametrize("kind", ["file", "folder", "link", "input"])
def test_what_exists_is_never_overwritten(saved: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing OUT of any kind, a dangling link or IN itself included, is refused with exit code 2."""
    out = saved if kind == "input" else saved.with_name("new.pth")
    if kind == "file":
        out.write_bytes(b"mine")
    elif kind == "folder":
        out.mkdir()
    elif kind == "link":
        out.symlink_to(saved.parent / "nowhere")
    before = saved.read_bytes()
    assert run(saved, "--out", out, "--write") == 2
    assert "is never overwritten" in capsys.readouterr().err
    assert saved.read_bytes() == before
    assert kind != "file" or out.read_bytes() == b"mine"


class Malicious:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint that would run code: one clear line, exit code 2, nothing executed, nothing written."""
    ran, path = tmp_path / "ran", tmp_path / "bad.pth"
    content = {**fork_checkpoint(steps=0), "hook": Malicious(ran)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"hook": Malicious(ran)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert run(path, "--out", tmp_path / "new.pth", "--write") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "refused, nothing of it was run" in lines[0]
    assert form != "zip" or "mkdir" in lines[0]
    assert not ran.exists()
    assert names_in(tmp_path) == ["bad.pth"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."])
def test_a_damaged_file_is_one_clear_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are no checkpoint, or an empty one: exit code 2 and one line that names the file or the lack."""
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    assert run(path, "--out", tmp_path / "new.pth") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "bad.pth" in lines[0] or "no student or teacher" in lines[0]


def test_paths_that_cannot_be(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing IN and a missing folder of OUT are named, exit code 2."""
    assert run(tmp_path / "no.pth", "--out", tmp_path / "new.pth") == 2
    assert "no.pth" in capsys.readouterr().err
    assert run(saved, "--out", tmp_path / "nowhere" / "new.pth") == 2
    assert "the folder" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that fills up while writing: exit code 2, no file under any name."""

    def full(content: object, stream: Any) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert run(saved, "--out", saved.with_name("new.pth"), "--write") == 2
    assert "No space left" in capsys.readouterr().err
    assert names_in(saved.parent) == ["checkpoint.pth"]


def test_options_that_are_wrong_are_named(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A layout, builder or pair that is not understood: what was given and what is expected."""
    out = saved.with_name("new.pth")
    for words, said in (
        (["--layout", "chunked"], "expected flat, chunks=N"),
        (["--groups", "three"], "expected one of two-per-module"),
        (["--set", "mask_ratio_min"], "expected NAME=VALUE"),
        (["--layout", "chunks=9"], "block_chunks is 9"),
    ):
        assert run(saved, "--out", out, *words) == 2
        assert said in capsys.readouterr().err
