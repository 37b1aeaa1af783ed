"""Saves a run's state with torch.distributed.checkpoint and finds the newest one that is sound."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from port.checkpoint import storage
from port.checkpoint.metadata import METADATA, Metadata
from port.checkpoint.mismatch import check_tensors
from port.checkpoint.ranks import on_all_ranks, on_rank_zero, rank
from port.weights.index import IndexReader

__all__ = ["Checkpointer"]

logger = logging.getLogger("port")


class Checkpointer:
    """The checkpoints of one run, in a folder that all its processes share.

    One process, data-parallel and sharded runs write the same format, and each reads the others' with any number of
    processes. Every method is a collective: all ranks call it, and all see its errors.

    Attributes:
        folder: holds `step_000000012`, the state before iteration 12, and so on.
        keep: newest checkpoints that stay; damaged ones stay too and do not count.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        """Remember the folder, which `save` makes.

        Raises:
            ValueError: `keep` is below 1.
        """
        if keep < 1:
            raise ValueError(f"checkpoint.keep is {keep}, expected at least 1")
        self.folder = folder
        self.keep = keep
        self._damaged: set[Path] = set()

    def check_writable(self, state: Mapping[str, Tensor]) -> None:
        """Try what `save` needs, to learn of a full disk or a read-only folder before the first step.

        Raises:
            OSError: the folder cannot be written, or has no room for one checkpoint.
        """
        on_rank_zero(lambda: self._check_writable(_size(state)))

    def save(self, state: Mapping[str, Tensor], metadata: Metadata) -> Path:
        """Write a checkpoint, then remove the oldest ones beyond `keep`.

        Whenever the process is killed, the folder holds the earlier checkpoints or, complete, the new one too.

        Args:
            state: from `training_state`.
            metadata: its iteration names the folder; one of the same iteration is replaced.

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
        """
        target = self.folder / storage.checkpoint_name(metadata.iteration)
        temporary = self.folder / f"{storage.TEMPORARY_PREFIX}{target.name}-{on_rank_zero(os.getpid)}"
        try:
            on_rank_zero(lambda: self._make_room(temporary))
            with _quiet_and_plain_errors():
                state_dict_saver.save(dict(state), storage_writer=FileSystemWriter(temporary))
            own = on_all_ranks(lambda: storage.describe_files(temporary.glob(f"__{rank()}_*")))
            on_rank_zero(lambda: self._complete(temporary, target, metadata, own))
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            self._discard(temporary)
            raise OSError(self._cannot_save(target, error, _size(state))) from error
        except BaseException:
            self._discard(temporary)
            raise
        return target

    def latest(self) -> Path | None:
        """Return the newest sound checkpoint, or None where there are none at all.

        Damaged ones are named in a warning and stay on the disk.

        Raises:
            ValueError: there are checkpoints, and all are damaged.
        """
        return on_rank_zero(self._latest)

    def load(self, into: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Metadata | None:
        """Read the newest sound checkpoint into tensors, in place.

        Args:
            into: from `training_state`; sharded or not, as this run is.
            config: this run's, as nested dicts; used to say what differs where the tensors do.

        Returns:
            What was saved beside the tensors, or None where there are no checkpoints.

        Raises:
            ValueError: all checkpoints are damaged, or the newest is of another architecture or of another version
                of this package or of torch. Nothing has been written into the tensors then.
        """
        found = on_rank_zero(lambda: self._choose(into, config))
        if found is None:
            return None
        path, metadata, names = found
        with _quiet_and_plain_errors():
            state_dict_loader.load({name: into[name] for name in names}, storage_reader=IndexReader(path))
        logger.info("resumed from %s at iteration %d", path, metadata.iteration)
        return metadata

    def _check_writable(self, needed: int) -> None:
        probe = self.folder / f"{storage.TEMPORARY_PREFIX}probe-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            storage.remove_leftovers(self.folder)
            storage.write_durably(probe, b"probe")
            probe.unlink()
            if shutil.disk_usage(self.folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - one handler words both
        except OSError as error:
            raise OSError(self._cannot_save(self.folder, error, needed)) from error

    def _make_room(self, temporary: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        storage.remove_leftovers(self.folder)
        temporary.mkdir()

    def _complete(
        self, temporary: Path, target: Path, metadata: Metadata, own: list[dict[str, storage.FileEntry]]
    ) -> None:
        """Add what is no tensor, check that all ranks wrote here, and give the folder its name."""
        storage.write_durably(temporary / METADATA, metadata.to_json())
        files = {name: entry for entries in own for name, entry in entries.items()}
        for name, entry in files.items():
            file = temporary / name
            if not file.exists() or file.stat().st_size != entry["size"]:
                raise OSError(f"{file}, which another rank wrote, is not seen by rank 0; expected one shared folder")
        rest = [file for file in temporary.iterdir() if file.name not in files]
        storage.write_manifest(temporary, {**files, **storage.describe_files(rest)})
        storage.publish(temporary, target)
        self._damaged.discard(target)
        self._prune(target)

    def _prune(self, newest: Path) -> None:
        others = [
            path for path in storage.find_checkpoints(self.folder) if path != newest and path not in self._damaged
        ]
        for path in others[self.keep - 1 :]:
            storage.remove(path)

    def _discard(self, temporary: Path) -> None:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)

    def _cannot_save(self, path: Path, error: Exception, needed: int) -> str:
        try:
            free = f"{shutil.disk_usage(self.folder).free:,}"
        except OSError:
            free = "an unknown number of"
        return (
            f"cannot save a checkpoint to {path}: {_reason(error)}. It needs about {needed:,} bytes, {free} bytes are "
            "free. Earlier checkpoints are untouched; free some space or mend the folder, then run the same command "
            "again"
        )

    def _latest(self) -> Path | None:
        found = storage.find_checkpoints(self.folder)
        for path in found:
            damage = storage.find_damage(path)
            if damage is None:
                return path
            self._damaged.add(path)
            logger.warning("the checkpoint %s is damaged (%s); falling back to the one before", path, damage)
        if found:
            raise ValueError(
                f"all {len(found)} checkpoints in {self.folder} are damaged (see the warnings above), expected a sound "
                "one; restore one from a backup, or move the folder away to start from the beginning"
            )
        return None

    def _choose(
        self, into: Mapping[str, Tensor], config: Mapping[str, Any] | None
    ) -> tuple[Path, Metadata, list[str]] | None:
        """Return the checkpoint to load, its metadata and the tensors to read, where it fits."""
        path = self._latest()
        if path is None:
            return None
        metadata = Metadata.from_json((path / METADATA).read_bytes())
        try:
            entries = IndexReader(path).read_metadata().state_dict_metadata
        except Exception as error:  # unpickling raises whatever the classes of another version raise
            raise ValueError(
                f"the index of {path} cannot be read ({error!r}): it was written by torch {metadata.torch_version}, "
                "expected a version as new as that"
            ) from error
        check_tensors(path, entries, into, metadata.config, config)
        absent = [name for name in into if name not in entries]
        if absent:
            logger.warning("%s was saved without a gradient scaler; this run's starts afresh", path)
        return path, metadata, [name for name in into if name in entries]


def _size(state: Mapping[str, Tensor]) -> int:
    """Return the bytes of all tensors, over all ranks."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def _reason(error: BaseException) -> str:
    """Return the system's words, which torch.save buries under an error of its own where a write fails."""
    buried: BaseException | None = error
    while buried is not None:
        if isinstance(buried, OSError) and buried.strerror:
            return buried.strerror
        buried = buried.__cause__ or buried.__context__
    return str(error)


@contextmanager
def _quiet_and_plain_errors() -> Iterator[None]:
    """Silence the remark that there is one process, and raise what went wrong on the first rank that failed."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            yield
    except CheckpointException as failure:
        error, _ = next(iter(failure.failures.values()))
        # Raising replaces the context, where torch.save's error keeps the system's; the cause stays.
        raise error from (error.__cause__ or error.__context__ or failure)
