"""A tiny run to checkpoint, and how to compare and damage what it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tiny_training import tiny_batch, tiny_model
from torch import Tensor
from torch.distributed.tensor import DTensor

from port.checkpoint import Checkpointer, Metadata, training_state
from port.optim import build_optimizer, build_schedulers
from port.step import TrainStep
from port.training.parallel import parallelise

__all__ = ["Run", "alike", "copied", "flip_byte", "metadata", "small_state"]


class Run:
    """A model with its optimizer and step, in one of the ways in which several processes share it."""

    def __init__(self, overrides: Sequence[str] = (), seed: int = 0, mode: str = "plain") -> None:
        self.model = tiny_model(overrides, seed)
        if mode != "plain":
            parallelise(self.model, mode, torch.device("cpu"))
        self.optimizer = build_optimizer(self.model.cfg, self.model.get_params_groups())
        self.step = TrainStep(self.model, self.optimizer, build_schedulers(self.model.cfg), self.model.cfg)

    def advance(self, start: int, stop: int) -> Run:
        """Carry out iterations; each has a batch of its own."""
        for iteration in range(start, stop):
            self.step(tiny_batch(self.model.cfg, seed=iteration), iteration)
        return self

    def state(self) -> dict[str, Tensor]:
        """Return the run's tensors."""
        return training_state(self.model, {"student": self.optimizer})

    def save(self, folder: Path, iteration: int, keep: int = 3) -> Path:
        """Save a checkpoint."""
        return Checkpointer(folder, keep).save(self.state(), Metadata.of_run(iteration, self.model.cfg))

    def load(self, folder: Path) -> Metadata | None:
        """Load the newest checkpoint."""
        return Checkpointer(folder).load(self.state())


def small_state(value: float) -> dict[str, Tensor]:
    """Return three tensors of one value: a matrix, a scalar and a bfloat16 vector."""
    return {
        "model.matrix": torch.full((8, 5), float(value)),
        "optimizer.student.step.matrix": torch.tensor(float(value)),
        "model.vector": torch.full((7,), value, dtype=torch.bfloat16),
    }


def metadata(iteration: int) -> Metadata:
    """Return metadata without a configuration."""
    return Metadata(iteration, {}, 1)


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole copies of tensors, sharded or not; a collective if they are sharded."""
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
        for name, tensor in state.items()
    }


def alike(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same names and, bit for bit, the same tensors."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def flip_byte(path: Path, position: int) -> None:
    """Change one byte of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
