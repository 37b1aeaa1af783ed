"""The reference's capabilities that carry a state from one place to another: to ranks, over a resume, into files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity.adapters.common import copied_state
from parity.adapters.official_checkpoint import (
    Held,
    export_official,
    load_official,
    load_official_weights,
    official_positions,
)
from parity.adapters.official_step import run_official_step
from parity.adapters.official_trajectory import resume_official_trajectory
from parity.reference import Reference

__all__ = ["OfficialStates"]


class OfficialStates(ABC):
    """Part of `parity.adapters.official.OfficialStack`."""

    _reference: Reference

    @abstractmethod
    def _official(self, config: DictConfig) -> DictConfig:
        """A copy, since official functions write into their configuration."""

    @abstractmethod
    def _scaled(self, config: DictConfig) -> DictConfig:
        """A copy with the learning rate of the group's batch."""

    def start_state(self, config: DictConfig, seed: int) -> dict[str, Tensor]:
        """`SSLMetaArch` after `prepare_for_distributed_training`, `dinov2/train/ssl_meta_arch.py:390`."""
        torch.manual_seed(seed)
        model = self._reference.module("train.ssl_meta_arch").SSLMetaArch(self._official(config))
        model.prepare_for_distributed_training()
        return copied_state(model)

    def distributed_step(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batch: Mapping[str, Any],
        iteration: int,
        seed: int,
    ) -> dict[str, dict[str, Any]]:
        """One iteration of official `do_train` on each rank, gradients averaged in place of FSDP."""
        return run_official_step(self._reference, self._scaled(config), state, batch, iteration, seed)

    def resumed_trajectory(
        self,
        config: DictConfig,
        state: Mapping[str, Tensor],
        batches: Sequence[Mapping[str, Any]],
        snapshots: Sequence[int],
        seed: int,
        stop: int,
        lost: str = "pending centre",
    ) -> dict[str, Any]:
        """Two official `do_train` with a checkpoint between them; official's own loses a pending centre (Q14)."""
        scaled = self._scaled(config)
        return resume_official_trajectory(self._reference, scaled, state, batches, snapshots, seed, stop, lost)

    def load_checkpoint(self, config: DictConfig, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """A training checkpoint into a fresh official model and optimizer, strictly."""
        return load_official(self._reference, self._official(config), checkpoint)

    def export_checkpoint(self, config: DictConfig, held: Held, iteration: int) -> dict[str, Any]:
        """What official's checkpointer is given to write."""
        return export_official(self._reference, self._official(config), held, iteration)

    def load_weights(self, config: DictConfig, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """The backbone as official's evaluation reads it.

        Raises:
            RuntimeError: tensors were left as they were, which official itself does not say.
        """
        state, left_out = self.lenient_weights(config, checkpoint)
        if left_out:
            raise RuntimeError(f"official's loader skips {', '.join(left_out)}")
        return state

    def lenient_weights(
        self, config: DictConfig, checkpoint: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """The same as official does it, and what it left out."""
        return load_official_weights(self._reference, self._official(config), checkpoint)

    def resized_positions(self, config: DictConfig, pos_embed: Tensor, size: int) -> Tensor:
        """Positions (1, 1 + N, D) learnt at another image size, as official uses them at this one."""
        with torch.no_grad():
            return official_positions(self._reference, self._official(config), pos_embed, size)
