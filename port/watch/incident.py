"""What a run leaves behind when it stops at a number that is not finite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from port.checkpoint.ranks import on_all_ranks
from port.data.collate import Batch
from port.ssl_meta_arch import SSLMetaArch
from port.watch.nonfinite import Culprit, CulpritKind, drop_pending_center_updates, earliest, first_nonfinite

__all__ = ["NonFiniteError", "next_steps", "nonfinite_error", "save_incident"]

STEPS: dict[CulpritKind, str] = {
    "input": "look at the images and the augmentation: the batch that the loader gave is not finite",
    "parameter": "the weights were not finite before this step: resume from an older checkpoint, or check the loaded "
    "file",
    "buffer": "it was not finite before this step: resume from an older checkpoint, and keep "
    "quirks.empty_mask_center=corrected (Q13)",
    "none": "resume; where it fails again at the same iteration, use fewer random parts (student.drop_path_rate=0) to "
    "reproduce it",
}
TRAINING_STEPS = "lower optim.base_lr, raise optim.warmup_epochs, or lower optim.clip_grad"


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is not finite; nothing was updated, and batch and state are saved.

    Attributes:
        culprit: the first tensor that is not finite.
        iteration: of the failed step.
        folder: where batch and state are; None where they could not be saved.
    """

    def __init__(self, message: str, culprit: Culprit, iteration: int, folder: Path | None) -> None:
        super().__init__(message)
        self.culprit = culprit
        self.iteration = iteration
        self.folder = folder


def nonfinite_error(
    model: SSLMetaArch,
    batch: Batch | Sequence[Batch],
    rerun: Callable[[], object],
    *,
    output_dir: str | Path,
    iteration: int,
    failure: str = "a loss is not finite",
    precision: str = "fp32",
    extra: Mapping[str, object] | None = None,
) -> NonFiniteError:
    """Find the culprit, save what is needed to look into it, and return the error to raise.

    Of several ranks, all must call this. Each names the first culprit of all: what one rank's batch did reaches the
    others in their averaged gradients only.

    Args:
        model: as the failed step left it.
        batch: of the failed step, one or micro-batches.
        rerun: as for `first_nonfinite`.
        output_dir: of the run.
        iteration: of the failed step.
        failure: what was seen, such as the message of `TrainStep`'s FloatingPointError.
        precision: of the run: fp32, bf16 or fp16.
        extra: further state to save, such as `{"optimizer": optimizer.state_dict()}`.
    """
    culprit = earliest(on_all_ranks(partial(first_nonfinite, model, batch, rerun)))
    folder: Path | None = None
    try:
        folder = save_incident(output_dir, batch, model, iteration, culprit, precision=precision, extra=extra)
        place = f"batch and state are in {folder}"
    except OSError as error:
        place = f"batch and state could not be saved ({error})"
    place_of_failure = f"iteration {iteration}: "  # TrainStep's message may begin with it
    message = (
        f"{place_of_failure}{failure.strip().removeprefix(place_of_failure)}\nfirst not finite: {culprit}\n"
        f"next step: {next_steps(culprit, precision)}; {place}"
    )
    return NonFiniteError(message, culprit, iteration, folder)


def next_steps(culprit: Culprit, precision: str) -> str:
    """Return what a user can do about it."""
    if culprit.kind in STEPS:
        return STEPS[culprit.kind]
    wider = {"fp16": "set precision=bf16 or precision=fp32, ", "bf16": "set precision=fp32, "}.get(precision, "")
    return wider + TRAINING_STEPS


def save_incident(
    output_dir: str | Path,
    batch: Batch | Sequence[Batch],
    model: SSLMetaArch,
    iteration: int,
    culprit: Culprit,
    *,
    precision: str = "fp32",
    extra: Mapping[str, object] | None = None,
) -> Path:
    """Save a batch and the state that failed on it to `OUTPUT/nonfinite_iteration_N/`.

    The folder appears complete or not at all; an older one of the same iteration is replaced. It holds `batch.pt`,
    `incident.json`, which says what the files are, and on rank 0, in full, `model.pt` (a state dict) and `extra.pt`.
    Ranks above 0 save to `OUTPUT/nonfinite_iteration_N_rank_R/`. Of several ranks, all must call this.

    Args:
        output_dir: of the run.
        batch: of the failed step, one or micro-batches.
        model: before any update. A pending centre update is dropped.
        iteration: of the failed step.
        culprit: from `first_nonfinite`.
        precision: of the run.
        extra: further state, of tensors and plain values.

    Returns:
        The folder.

    Raises:
        OSError: it cannot be written.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    drop_pending_center_updates(model)
    # Sharded tensors become whole on all ranks together.
    state, further = _whole(model.state_dict()), _whole(extra or {})
    contents: dict[str, object] = {"batch.pt": batch}
    if rank == 0:
        contents["model.pt"] = state
        if extra:
            contents["extra.pt"] = further
    folder = Path(output_dir) / f"nonfinite_iteration_{iteration}{f'_rank_{rank}' if rank else ''}"
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        for name, content in contents.items():
            _save(content, unfinished / name)
        document = _document(iteration, culprit, precision, sorted(contents))
        (unfinished / "incident.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        return unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _document(iteration: int, culprit: Culprit, precision: str, files: list[str]) -> dict[str, object]:
    described = asdict(culprit)
    if culprit.largest_input is not None and culprit.largest_input != culprit.largest_input:
        described["largest_input"] = "not finite"  # JSON has no NaN
    return {
        "what": "A training step gave a number that is not finite. Nothing was updated.",
        "iteration": iteration,
        "first_not_finite": str(culprit),
        "culprit": described,
        "precision": precision,
        "next_steps": next_steps(culprit, precision),
        "files": files,
        "to_load": "torch.load(FILE, weights_only=True); model.load_state_dict(...) takes model.pt, "
        "model.forward_backward(batch, teacher_temp) takes batch.pt",
    }


def _save(content: object, path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:  # torch's writer turns a full disk into one
        raise OSError(f"{path}: {error}") from error


def _whole(value: object) -> object:
    """Return nested dicts and lists, as state dicts are, with whole tensors in place of shards."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: _whole(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_whole(child) for child in value]
    return value
