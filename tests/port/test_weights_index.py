from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_runs import Run
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from port.checkpoint.storage import describe_files, write_manifest
from port.weights.files import read_tensors
from port.weights.index import IndexReader


class _Call:
    """Calls a function where it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: str) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return self.call


def _global(module: str, name: str) -> bytes:
    """Return a pickle that only names something."""
    words = (b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return b"\x80\x04" + b"".join(words) + b"\x93."


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A sound checkpoint, of separate heads and a prototype bank."""
    return Run(["prototype.loss_weight=1", "ibot.separate_head=true"]).save(tmp_path / "checkpoints", 2)


def test_the_index_that_torch_writes_is_read(checkpoint: Path) -> None:
    """As its own reader does, but for the name of the reading."""
    expected = FileSystemReader(checkpoint).read_metadata()
    found = IndexReader(checkpoint).read_metadata()
    assert isinstance(found, Metadata)
    assert found.state_dict_metadata == expected.state_dict_metadata
    assert found.storage_data == expected.storage_data


def test_code_in_an_index_is_not_run(checkpoint: Path) -> None:
    """Neither to start from nor to resume from, though the manifest's hashes are right."""
    trap = checkpoint.parent / "made-by-the-index"
    index = FileSystemReader(checkpoint).read_metadata()
    index.planner_data = _Call(os.mkdir, str(trap))
    (checkpoint / ".metadata").write_bytes(pickle.dumps(index))
    files = [file for file in checkpoint.iterdir() if file.name != "manifest.json"]
    write_manifest(checkpoint, describe_files(files))
    with pytest.raises(ValueError, match=r"the index of .* cannot be read .*mkdir, which describes no tensor"):
        read_tensors(checkpoint)
    with pytest.raises(ValueError, match=r"the index of .* cannot be read .*mkdir, which describes no tensor"):
        Run(["prototype.loss_weight=1", "ibot.separate_head=true"]).load(checkpoint.parent)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("torch", "load"),
        ("torch.distributed.checkpoint.metadata", "torch.load"),
        ("torch.distributed.checkpoint.metadata", "dataclass"),
        ("torch.distributed.checkpoint.filesystem", "pickle"),
        ("this", "s"),
    ],
)
def test_what_describes_no_tensor_is_refused(tmp_path: Path, module: str, name: str) -> None:
    """By whatever way it is reached; a module that is not torch's is not even imported."""
    (tmp_path / ".metadata").write_bytes(_global(module, name))
    with pytest.raises(pickle.UnpicklingError, match=f"it names {module}.{name}, which describes no tensor"):
        IndexReader(tmp_path).read_metadata()
    assert "this" not in sys.modules


def test_harmless_data_is_no_index(tmp_path: Path) -> None:
    """It is of another kind."""
    (tmp_path / ".metadata").write_bytes(pickle.dumps(torch.float16))
    with pytest.raises(ValueError, match=r"\.metadata is no index of a checkpoint"):
        IndexReader(tmp_path).read_metadata()
