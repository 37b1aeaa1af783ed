"""`port`'s capabilities that carry a state from one place to another: to ranks, over a resume, into files."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity.adapters.common import copied_state, held_state, optimizer_with, snapshot
from parity.adapters.port_parts import official_settings, student_names, typed_batch
from parity.names import canonical
from port.checkpoint import Checkpointer, Metadata, training_state
from port.models import Architecture
from port.optim import build_optimizer
from port.ssl_meta_arch import SSLMetaArch
from port.step import GradientHook, TrainStep
from port.training.start import start_from_weights
from port.weights import load_training_weights

__all__ = ["PortStates"]


class PortStates(ABC):
    """Part of `parity.adapters.port.PortStack`."""

    kernels: str
    _architectures: Mapping[str, Architecture]

    @abstractmethod
    def training_step(
        self, config: DictConfig, state: Mapping[str, Tensor], batch: Mapping[str, Any], iteration: int, seed: int
    ) -> dict[str, dict[str, Any]]:
        """One step on this rank's batch."""

    @abstractmethod
    def _train_step(self, config: DictConfig, state: Mapping[str, Tensor], *hooks: GradientHook) -> TrainStep:
        """A step over a model that has the given state, spread over the ranks that there are."""

    def start_state(self, config: DictConfig, seed: int) -> dict[str, Tensor]:
        """A model as `port.training.start` leaves it."""
        torch.manual_seed(seed)
        model = SSLMetaArch(config, architectures=self._architectures)
        start_from_weights(model, official_settings(config, self.kernels))
        return copied_state(model)

    def distributed_step(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batch: Mapping[str, Any],
        iteration: int,
        seed: int,
    ) -> dict[str, dict[str, Any]]:
        """One step over `DistributedDataParallel`, as `port.training.parallel` sets it up."""
        return self.training_step(config, state, batch, iteration, seed)

    def training_trajectory(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batches: Sequence[Mapping[str, Any]],
        snapshots: Sequence[int],
        seed: int,
    ) -> dict[str, Any]:
        """One `port.step.TrainStep`, called for every iteration as `port`'s training loop calls it."""
        return _trained(self._train_step(config, state), state, batches, snapshots, seed, 0)

    def resumed_trajectory(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batches: Sequence[Mapping[str, Any]],
        snapshots: Sequence[int],
        seed: int,
        stop: int,
    ) -> dict[str, Any]:
        """The same, saved by `port.checkpoint` after iteration `stop` and loaded into everything anew."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpointer(Path(folder))
            step = self._train_step(config, state)
            first = _trained(step, state, batches[: stop + 1], snapshots, seed, 0)
            checkpoints.save(_tensors(step), Metadata.of_run(stop + 1, config))
            step = self._train_step(config, state)
            metadata = checkpoints.load(_tensors(step))
        assert metadata is not None
        rest = _trained(step, state, batches[stop + 1 :], snapshots, seed, metadata.iteration)
        return {
            "losses": [*first["losses"], *rest["losses"]],
            "snapshots": {**first["snapshots"], **rest["snapshots"]},
        }

    def load_checkpoint(self, config: DictConfig, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """An official training checkpoint into a fresh model, whose names are official's, and its optimizer."""
        model, optimizer, names = self._built(config)
        model.load_state_dict(checkpoint["model"], strict=True)
        if "optimizer" in checkpoint:
            # The groups are official's, in official's order; `submodule` is a key of ours alone.
            saved = checkpoint["optimizer"]
            groups = [
                {**own, **given} for own, given in zip(optimizer.param_groups, saved["param_groups"], strict=True)
            ]
            optimizer.load_state_dict({**saved, "param_groups": groups})
        return held_state(model, optimizer, names)

    def export_checkpoint(
        self, config: DictConfig, held: Mapping[str, Mapping[str, Tensor]], iteration: int
    ) -> dict[str, Any]:
        """The state dicts of a model and its optimizer, without what official's groups do not have."""
        model, optimizer, names = self._built(config)
        model.load_state_dict(dict(held["model"]), strict=True)
        optimizer_with(optimizer, names, held)
        saved = optimizer.state_dict()
        groups = [{key: value for key, value in g.items() if key != "submodule"} for g in saved["param_groups"]]
        return {
            "model": dict(model.state_dict()),
            "optimizer": {**saved, "param_groups": groups},
            "iteration": iteration,
        }

    def load_weights(self, config: DictConfig, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """`port.weights.load_training_weights` of a file with this content: the backbone, and heads that it has."""
        network = SSLMetaArch(config, architectures=self._architectures).teacher
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "weights.pth"
            torch.save(dict(checkpoint), file)
            report = load_training_weights(network, file)
        return {f"{part}.{name}": t.clone() for part in report.found for name, t in network[part].state_dict().items()}

    def _built(self, config: DictConfig) -> tuple[SSLMetaArch, torch.optim.Optimizer, dict[int, str]]:
        config = official_settings(config, self.kernels)
        model = SSLMetaArch(config, architectures=self._architectures)
        optimizer = build_optimizer(config, model.get_params_groups())
        return (
            model,
            optimizer,
            {id(parameter): canonical(name) for name, parameter in model.student.named_parameters()},
        )


def _trained(
    step: TrainStep,
    state: Mapping[str, Tensor],
    batches: Sequence[Mapping[str, Any]],
    snapshots: Sequence[int],
    seed: int,
    start: int,
) -> dict[str, Any]:
    """Carry out iterations from `start` on and return what passed."""
    names = student_names(step)
    losses, taken = [], {}
    for iteration, batch in enumerate(batches, start):
        typed = typed_batch(batch, state)
        torch.manual_seed(seed + iteration)
        report = step.run([typed], iteration)
        losses.append({name: value.clone() for name, value in report.losses.displayed.items()})
        if iteration in snapshots:
            taken[iteration] = snapshot(step.model, step.optimizer, names)
    return {"losses": losses, "snapshots": taken}


def _tensors(step: TrainStep) -> dict[str, Tensor]:
    return training_state(step.model, {"student": step.optimizer})
