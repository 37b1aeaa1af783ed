"""The teacher alone, in the file that official's evaluation reads."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from port.checkpoint.ranks import on_rank_zero, rank
from port.checkpoint.state import plain_name
from port.ssl_meta_arch import SSLMetaArch

__all__ = ["save_teacher"]


def save_teacher(model: SSLMetaArch, path: Path) -> None:
    """Write `{"teacher": state dict}` with whole tensors on the CPU (`dinov2/train/train.py:128`).

    All ranks must call this; rank 0 writes. The file appears complete, or not at all.

    Args:
        model: sharded or not.
        path: official's is `eval/training_ITERATION/teacher_checkpoint.pth`; folders are made.

    Raises:
        OSError: the file cannot be written.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in model.teacher.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if rank() == 0:
            state[plain_name(name)] = whole.detach().cpu()
    on_rank_zero(lambda: _write(state, path))


def _write(state: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            torch.save({"teacher": state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        raise OSError(f"cannot write the teacher to {path}: {error}; free some space or mend the folder") from error
    finally:
        temporary.unlink(missing_ok=True)
