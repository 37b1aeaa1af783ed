"""Reading tensors from files, without running code that a file may hold."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from port.weights.extras import require
from port.weights.folders import read_checkpoint_folder

__all__ = ["read_tensors"]


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.pth`, a `.safetensors` or a checkpoint's folder, names of nested mappings joined by dots.

    Returns:
        Tensors on the CPU.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, holds anything but plain data and tensors, or no tensor.
        ImportError: it is a `.safetensors` file and safetensors is not installed.
    """
    if file.is_dir():
        content: object = read_checkpoint_folder(file)
    else:
        content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    tensors = dict(_flatten(content, ""))
    if not tensors:
        raise ValueError(f"{file} holds no tensor; expected a state dict")
    return tensors


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    library = require("safetensors.torch", f"reading {file}")
    try:
        tensors: dict[str, Tensor] = library.load_file(file)
    except require("safetensors", f"reading {file}").SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error
    return tensors


def _read_pickle(file: Path) -> object:
    file.open("rb").close()  # what cannot be opened is an OSError, whatever torch makes of it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; a file that holds more than data is an error all the same
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        other = _other_kind(file)
        if other:
            raise ValueError(f"{file} is damaged or no PyTorch file: {other}") from error
        raise ValueError(
            f"{file} is damaged, no PyTorch file, or holds more than tensors and plain data, which could run code and "
            "is not read; of official runs, give eval/*/teacher_checkpoint.pth"
        ) from error
    except Exception as error:  # bytes that are no pickle raise whatever their first instruction leads to
        raise ValueError(f"{file} is damaged or no PyTorch file: {error or type(error).__name__}") from error


def _other_kind(file: Path) -> str:
    """Return what a file that is no pickle is by its first bytes, and what to do; empty where they do not say."""
    with file.open("rb") as stream:
        start = stream.read(64)
    if start.lstrip().startswith(b"<"):
        return "it begins like a web page, as where a download was refused; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs; fetch the file that it stands for with git lfs pull"
    if start[8:9] == b"{":  # after the header's length
        return "it looks like a safetensors file; rename it to end in .safetensors"
    return ""


def _flatten(node: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield prefix.removesuffix("."), node
    elif isinstance(node, Mapping):
        for name, child in node.items():
            yield from _flatten(child, f"{prefix}{name}.")
