"""Official training over many iterations: one call of `do_train`, its own loop and `zero_grad` included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity.adapters.common import settled_centers, snapshot
from parity.adapters.official_step import Modules, files_replaced, prepared_batch, prepared_model
from parity.names import canonical

__all__ = ["LOST", "resume_official_trajectory", "run_official_trajectory"]

LOST: Mapping[str, str] = {
    "pending centre": "the centre update that waits for its next use is not saved",
    "moments": "AdamW starts anew: its moments and its count of steps are lost",
    "step": "AdamW's moments are kept, its count of steps starts at zero: the bias is corrected again",
    "teacher": "the teacher starts as a copy of the student",
    "schedules": "the schedules start at iteration 0 again",
    "last layer": "the last layer is frozen again",
}
"""What a resume may lose, in words; a resume that loses nothing equals the unbroken training."""


def run_official_trajectory(
    reference: Modules,
    config: DictConfig,
    state: Mapping[str, Tensor],
    batches: Sequence[Mapping[str, Any]],
    snapshots: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Run official `do_train` from iteration 0 over the given batches and return what passed.

    Nothing is called between its steps: the losses are read as `forward_backward` returns them, and what training
    carries on when the loop asks for its next batch.

    Args:
        reference: the opened official code.
        config: official configuration, `optim.lr` already scaled; owned by the call.
        state: `student.…`, `teacher.…` and centres; its dtype is the dtype of training.
        batches: collated; floats are cast to the dtype of the state.
        snapshots: the iterations after which the state is returned.
        seed: torch is seeded with `seed + iteration` when a batch is handed over.

    Returns:
        The mapping that `parity.stack` documents for `training_trajectory`.
    """
    shown, _ = _trained(reference, config, state, batches, snapshots, seed, 0, None)
    return shown


def resume_official_trajectory(
    reference: Modules,
    config: DictConfig,
    state: Mapping[str, Tensor],
    batches: Sequence[Mapping[str, Any]],
    snapshots: Sequence[int],
    seed: int,
    stop: int,
    lost: str = "pending centre",
) -> dict[str, Any]:
    """Run two official `do_train`: the second starts from what is saved after iteration `stop`.

    Official's checkpoint holds the state dicts of model and optimizer (`dinov2/fsdp/__init__.py:86-105`); the model's
    lacks a pending centre (Q14). The second model and optimizer are fresh.

    Args:
        reference: the opened official code.
        config: official configuration, `optim.lr` already scaled; owned by the call.
        state: `student.…`, `teacher.…` and centres; its dtype is the dtype of training.
        batches: of both trainings.
        snapshots: the iterations after which the state is returned.
        seed: torch is seeded with `seed + iteration` when a batch is handed over.
        stop: the last iteration of the first training.
        lost: one of `LOST`; official's own resume loses the pending centre.
    """
    first, saved = _trained(reference, config.copy(), state, batches[: stop + 1], snapshots, seed, 0, None)
    rest, _ = _trained(
        reference, config, state, batches[stop + 1 :], snapshots, seed, stop + 1, _without(saved, lost), lost=lost
    )
    return {
        "losses": [*first["losses"], *rest["losses"]],
        "snapshots": {**first["snapshots"], **rest["snapshots"]},
    }


def _without(saved: Mapping[str, Any], lost: str) -> dict[str, Any]:
    """Return what is left of a checkpoint."""
    model, optimizer = dict(saved["model"]), dict(saved["optimizer"])
    if lost != "pending centre":
        model |= saved["centers"]
    if lost == "moments":
        optimizer["state"] = {}
    if lost == "step":
        own = optimizer["state"]
        optimizer["state"] = {n: {**v, "step": torch.zeros_like(v["step"])} for n, v in own.items()}
    if lost == "teacher":
        model = {
            n: model[n.replace("teacher.", "student.", 1)] if n.startswith("teacher.") else t for n, t in model.items()
        }
    return {"model": model, "optimizer": optimizer}


class _Read:
    """A schedule that is read through a function."""

    def __init__(self, read: Callable[[int], float]) -> None:
        self._read = read

    def __getitem__(self, iteration: int) -> float:
        return self._read(iteration)


def _from(schedule: Any, start: int, iteration: int) -> float:
    value: float = schedule[iteration - start if iteration >= start else iteration]
    return value


def _shifted(train: Any, start: int, lost: str) -> Any:
    """Let official's schedules, or the last layer's alone, start again at iteration `start`."""
    if lost not in ("schedules", "last layer"):
        return nullcontext()
    build = train.build_schedulers

    def build_schedulers(config: DictConfig) -> list[Any]:
        frozen = config.optim.freeze_last_layer_epochs * config.train.OFFICIAL_EPOCH_LENGTH
        *others, last_layer = build(config)
        if lost == "last layer":
            return [*others, _Read(lambda i: 0.0 if start <= i < start + frozen else last_layer[i])]
        again = [partial(_from, schedule, start) for schedule in (*others, last_layer)]
        return [_Read(read) for read in again]

    return mock.patch.object(train, "build_schedulers", build_schedulers)


def _trained(
    reference: Modules,
    config: DictConfig,
    state: Mapping[str, Tensor],
    batches: Sequence[Mapping[str, Any]],
    snapshots: Sequence[int],
    seed: int,
    start: int,
    saved: Mapping[str, Any] | None,
    *,
    lost: str = "",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run one `do_train` from iteration `start` on; return what passed, and the checkpoint after it."""
    model, dtype = prepared_model(reference, config, state)
    if saved is not None:
        model.load_state_dict(saved["model"], strict=True)
    names = {id(p): canonical(name) for name, p in model.student.named_parameters()}
    watched: list[torch.optim.Optimizer] = []
    losses: list[dict[str, Tensor]] = []
    taken: dict[int, dict[str, dict[str, Any]]] = {}

    def built(optimizer: torch.optim.Optimizer) -> None:
        watched.append(optimizer)
        if saved is not None:
            optimizer.load_state_dict(saved["optimizer"])

    def take(iteration: int) -> None:
        if iteration in snapshots and iteration >= start:
            taken[iteration] = snapshot(model, watched[-1], names)

    def loader(**_: Any) -> Iterator[dict[str, Any]]:
        for iteration, batch in enumerate(batches, start):
            take(iteration - 1)
            prepared = prepared_batch(batch, dtype)
            torch.manual_seed(seed + iteration)
            yield prepared

    inner = model.forward_backward

    def forward_backward(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        shown: dict[str, Tensor] = inner(*args, **kwargs)
        losses.append({name: value.detach().clone() for name, value in shown.items()})
        return shown

    model.forward_backward = forward_backward
    train = reference.module("train.train")
    with files_replaced(reference, config, loader, start=start, on_optimizer=built), _shifted(train, start, lost):
        train.do_train(config, model, resume=True)
    take(start + len(batches) - 1)  # the loop ends without asking for another batch
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": watched[-1].state_dict(),
        "centers": {n: c.view_as(model.state_dict()[n]) for n, c in settled_centers(model).items()},
    }
    return {"losses": losses, "snapshots": taken}, checkpoint
