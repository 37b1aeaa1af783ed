"""Reading a checkpoint without running what it may hold, and writing a new file whole or not at all."""

from __future__ import annotations

import argparse
import os
import pickle
import secrets
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from migrations.checkpoint.errors import CheckpointError

__all__ = ["read_checkpoint", "write_checkpoint"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, its tensors on the CPU, mapped from the file where its format allows it.

    Tensors, plain data and `argparse.Namespace` are read; anything else could run code and is not.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: it is no checkpoint, or holds more than data.
    """
    path.open("rb").close()  # what cannot be opened is an OSError, whatever torch makes of it
    mapped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings(), safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of old formats
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, nothing of it was run: it holds {_unsafe(path, mapped)}, expected tensors, plain data "
            "and argparse.Namespace only; if you trust it, load it in your own code, save it again without that, and "
            "convert the new file"
        ) from error
    except Exception as error:  # bytes that are no pickle raise whatever their first instruction leads to
        said = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} is damaged or no PyTorch file: {said[:200]}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dict with student and teacher")
    return dict(content)


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a new file, which appears under its name when all of it is on the disk.

    Raises:
        FileExistsError: there is something of that name; it is not touched.
        OSError: it cannot be written; nothing is left behind.
    """
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            try:
                torch.save(dict(content), stream)
            except RuntimeError as error:  # what the writer says of a full disk
                raise OSError(f"{path} cannot be written: {' '.join(str(error).split())[:200]}") from error
            stream.flush()
            os.fsync(stream.fileno())
        _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Raise FileExistsError where a file, folder or link has the name already."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is never overwritten; name a new file with --out")


def _publish(temporary: Path, path: Path) -> None:
    """Give the file its name, unless something got that name meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        refuse_existing(path)
        raise
    except OSError:  # file systems without links
        refuse_existing(path)
        temporary.rename(path)


def _unsafe(path: Path, zipped: bool) -> str:
    """Name what is not plain data; reading the names runs nothing."""
    names: list[str] = []
    if zipped:
        try:
            with safe_globals([argparse.Namespace]):
                names = sorted(get_unsafe_globals_in_checkpoint(path))
        except Exception:  # a pickle that is broken as well; the refusal stands without the names
            names = []
    return ", ".join(names[:4]) if names else "what is not plain data"
