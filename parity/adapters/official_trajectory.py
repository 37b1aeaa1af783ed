"""Official training over many iterations: one call of `do_train`, its own loop and `zero_grad` included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity.adapters.common import snapshot
from parity.adapters.official_step import Modules, files_replaced, prepared_batch, prepared_model
from parity.names import canonical

__all__ = ["run_official_trajectory"]


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
    model, dtype = prepared_model(reference, config, state)
    names = {id(p): canonical(name) for name, p in model.student.named_parameters()}
    watched: list[torch.optim.Optimizer] = []
    losses: list[dict[str, Tensor]] = []
    taken: dict[int, dict[str, dict[str, Any]]] = {}

    def take(iteration: int) -> None:
        if iteration in snapshots:
            taken[iteration] = snapshot(model, watched[-1], names)

    def loader(**_: Any) -> Iterator[dict[str, Any]]:
        for iteration, batch in enumerate(batches):
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
    with files_replaced(reference, config, loader, start=0, on_optimizer=watched.append):
        reference.module("train.train").do_train(config, model, resume=True)
    take(len(batches) - 1)  # the loop ends without asking for another batch
    return {"losses": losses, "snapshots": taken}
