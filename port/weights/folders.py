"""Finding weights in folders: an exported one, a run's, a checkpoint's."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from port.weights.index import IndexReader

__all__ = ["find_teacher_checkpoint", "read_checkpoint_folder", "resolve_file", "run_folder"]

logger = logging.getLogger("port")

EXPORTED_FILES = ("model.safetensors", "backbone.pth")
"""What an exported folder holds, see `port.weights.targets`."""

NETWORKS = ("teacher", "student")


def find_teacher_checkpoint(run: Path) -> Path | None:
    """Return the newest `eval/*/teacher_checkpoint.pth` of a run, None where there is none.

    Official names the folders `training_ITERATION` (`dinov2/train/train.py:123`); the highest number is the
    newest, and of two with the same number, or none, the one that was written last.
    """
    found = run.glob("eval/*/teacher_checkpoint.pth")
    return max(found, key=lambda file: (_number(file.parent.name), file.stat().st_mtime), default=None)


def resolve_file(path: str | Path, network: str | None = None) -> Path:
    """Return the file, or the checkpoint's folder, that a path means.

    Of a run's folder that is the newest of its saved teachers and sound checkpoints, and a teacher where both are
    of the same iteration.

    Args:
        path: a file; a checkpoint `step_000000012`; an exported folder; or a run's folder.
        network: what it is to hold; saved teachers do not count for `student`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is a URL, a folder without weights, or a damaged checkpoint.
    """
    if "://" in str(path):
        raise ValueError(f"{path} is a URL; download it first, and give the file")
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    if not path.is_dir():
        return path
    for name in EXPORTED_FILES:
        if (path / name).is_file():
            return path / name
    if (path / ".metadata").is_file():
        damage = _damage(path)
        if damage:
            raise ValueError(f"the checkpoint {path} is damaged ({damage}); give the one before it")
        return path
    newest = _newest(path, network)
    if newest is None:
        raise ValueError(
            f"the folder {path} has none of {', '.join(EXPORTED_FILES)}, eval/*/teacher_checkpoint.pth and a sound "
            "checkpoints/step_*; give a run's folder, a checkpoint, an exported folder or a file"
        )
    return newest


def run_folder(path: Path, file: Path) -> Path:
    """Return the folder of the run that `file`, found at `path`, is of: where official's layout puts it."""
    file = file.absolute()
    if file.is_dir():
        return file.parent.parent
    if file.parent == path.absolute():  # an exported folder
        return path
    return file.parent.parent.parent


def read_checkpoint_folder(folder: Path) -> dict[str, Tensor]:
    """Read teacher and student of a checkpoint that `port.checkpoint` wrote, by any number of processes.

    Returns:
        `teacher.…` and `student.…`, whole tensors on the CPU.

    Raises:
        ValueError: its index cannot be read, or could run code.
        OSError: a file cannot be read.
    """
    reader = IndexReader(folder)
    try:
        entries = reader.read_metadata().state_dict_metadata
    except OSError:
        raise
    except Exception as error:  # unpickling raises whatever the classes of another version raise
        raise ValueError(f"the index of {folder} cannot be read ({error!r}); use the torch that wrote it") from error
    wanted = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata) and name.startswith(tuple(f"model.{n}." for n in NETWORKS))
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        state_dict_loader.load(wanted, storage_reader=IndexReader(folder), no_dist=True)
    return {name.removeprefix("model."): tensor for name, tensor in wanted.items()}


def _newest(run: Path, network: str | None) -> Path | None:
    found: list[tuple[int, Path]] = []
    teacher = find_teacher_checkpoint(run) if network != "student" else None
    if teacher:
        # `training_11` is written after iteration 11, `step_12` before iteration 12: the same weights.
        found.append((_number(teacher.parent.name) + 1, teacher))
    checkpoint = _newest_sound(run)
    if checkpoint:
        found.append((_number(checkpoint.name), checkpoint))
    return max(found, key=lambda item: item[0], default=(0, None))[1]


def _newest_sound(run: Path) -> Path | None:
    # port.checkpoint imports the model, which imports this package.
    from port.checkpoint.storage import find_checkpoints

    for path in find_checkpoints(run / "checkpoints") or find_checkpoints(run):
        damage = _damage(path)
        if not damage:
            return path
        logger.warning("the checkpoint %s is damaged (%s); falling back to the one before", path, damage)
    return None


def _damage(folder: Path) -> str | None:
    from port.checkpoint.storage import find_damage

    return find_damage(folder)


def _number(name: str) -> int:
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else -1
