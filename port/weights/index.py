"""Reading the index of a checkpoint's folder without running code that it may hold.

torch.distributed.checkpoint writes its index as a pickle and reads it as one, unlike the tensors beside it.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

__all__ = ["IndexReader"]

METADATA = "torch.distributed.checkpoint.metadata"
# Beside the classes of METADATA: what they hold, and how torch pickles a layout.
ALLOWED = {
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}


class IndexReader(FileSystemReader):
    """Reads a checkpoint's folder; an index that names anything but descriptions of tensors is refused."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index.

        Raises:
            ValueError: it would run code, or is no index.
            OSError: it cannot be read.
        """
        with Path(self._get_metadata_path(kwargs.get("rank"))).open("rb") as stream:
            if not isinstance(_DataUnpickler(stream).load(), Metadata):
                raise ValueError(f"{stream.name} is no index of a checkpoint")  # noqa: TRY004 - of a file, not an argument
        # The same bytes again: what torch completes in them differs from version to version.
        return super().read_metadata(*args, **kwargs)


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, where it is data."""
        # Names are looked at first: importing a module can run code too.
        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        if module in ("torch", METADATA) and "." not in name:
            found = super().find_class(module, name)
            # Of METADATA its own classes, not what it merely imports.
            own = isinstance(found, type) and found.__module__ == METADATA
            if own or isinstance(found, torch.dtype):
                return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no tensor and could run code")
