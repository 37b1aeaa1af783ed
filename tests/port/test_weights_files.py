from __future__ import annotations

import importlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from port.weights.files import read_tensors

# Optional libraries, which a type checker need not find.
save_file = importlib.import_module("safetensors.torch").save_file


class _Code:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def _saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_nested_names_are_joined(tmp_path: Path) -> None:
    """Everything that is no tensor is passed over."""
    content = {"teacher": {"backbone": {"cls_token": torch.ones(2)}}, "iteration": 5, "norm": torch.zeros(3), "x": None}
    tensors = read_tensors(_saved(tmp_path / "a.pth", content))
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "teacher.backbone.cls_token": [1, 1],
        "norm": [0, 0, 0],
    }


def test_old_files_are_read(tmp_path: Path) -> None:
    """What torch wrote before its zip format."""
    file = tmp_path / "old.pth"
    torch.save({"a": torch.arange(3)}, file, _use_new_zipfile_serialization=False)
    assert read_tensors(file)["a"].tolist() == [0, 1, 2]


def test_safetensors_are_read(tmp_path: Path) -> None:
    """By their suffix."""
    save_file({"norm.weight": torch.arange(4.0)}, tmp_path / "model.safetensors")
    assert read_tensors(tmp_path / "model.safetensors")["norm.weight"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("content", [{}, {"iteration": 5}, [torch.ones(1)], "weights"])
def test_a_file_without_tensors_is_an_error(tmp_path: Path, content: object) -> None:
    """Named, with what was expected."""
    with pytest.raises(ValueError, match=r"a\.pth holds no tensor; expected a state dict"):
        read_tensors(_saved(tmp_path / "a.pth", content))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, zipped: bool) -> None:
    """The file is refused, in words that say why."""
    trap = tmp_path / "made-by-the-file"
    content = {"cls_token": torch.ones(1), "hook": _Code(trap)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match="holds more than tensors and plain data, which could run code and is not read"
    ):
        read_tensors(tmp_path / "a.pth")
    assert not trap.exists()


def test_a_plain_pickle_is_not_run(tmp_path: Path) -> None:
    """Nor is one that torch did not write."""
    trap = tmp_path / "made-by-the-file"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(_Code(trap)))
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_tensors(tmp_path / "a.pth")
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_an_error(tmp_path: Path, share: float, zipped: bool) -> None:
    """Wherever the download stopped."""
    file = tmp_path / "a.pth"
    torch.save({"a": torch.ones(500), "b": torch.ones(500)}, file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.pth is damaged"):
        read_tensors(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html><html>404</html>", b"\x80", b"\x89PNG\r\n", b"version https://git-lfs\noid sha256:1"],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_no_checkpoint_is_an_error(tmp_path: Path, content: bytes, name: str) -> None:
    """An error page, an image, a git-lfs pointer: the file is named."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n<!DOCTYPE html>\n<html><head><title>403 Forbidden</title>", "web page, .*; download it again$"),
        (b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code>', "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer of git-lfs; .* git lfs pull$"),
    ],
)
def test_what_was_downloaded_instead_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    """And what to do about it; nothing is said of code or of official runs."""
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.pth is damaged or no PyTorch file: it .*{words}") as error:
        read_tensors(tmp_path / "a.pth")
    assert "code" not in str(error.value)


def test_safetensors_by_another_name_are_named(tmp_path: Path) -> None:
    """The suffix decides how a file is read, so it is to be renamed."""
    save_file({"norm.weight": torch.arange(4.0)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"looks like a safetensors file; rename it to end in \.safetensors$"):
        read_tensors(tmp_path / "a.pth")


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=64))
def test_any_bytes_are_a_value_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """No bytes make it fail in another way."""
    file = tmp_path_factory.getbasetemp() / "fuzzed.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"fuzzed\.pth"):
        read_tensors(file)


def test_a_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    """Which `main` words, as it does any other."""
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        read_tensors(tmp_path / "gone.pth")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"needs safetensors.*pip install 'dinov2-parity\[export\]'"):
        read_tensors(_saved(tmp_path / "a.safetensors", {}))


def test_warnings_of_old_formats_are_not_shown(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """They are of no use to a user who was given the file."""
    file = tmp_path / "old.pth"
    torch.save({"a": torch.ones(1, dtype=torch.float16)}, file, _use_new_zipfile_serialization=False)
    assert read_tensors(file)["a"].dtype == torch.float16
    assert not recwarn.list
