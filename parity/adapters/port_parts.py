"""What the adapter of `port` prepares: its configuration and its batches, and names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor

from port.config import apply_scaling_rules, default_config
from port.data import Batch
from port.step import TrainStep

__all__ = ["dtype_of", "official_settings", "prototype_settings", "student_names", "typed_batch"]


def dtype_of(state: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype of a model's state: that of its first float tensor."""
    return next(t.dtype for t in state.values() if t.is_floating_point())


def typed_batch(batch: Mapping[str, Any], state: Mapping[str, Tensor]) -> Batch:
    """Return the batch with its crops in the dtype of the state."""
    images = {name: value.to(dtype_of(state)) for name, value in batch.items() if name.endswith("_crops")}
    return {**batch, **images}  # type: ignore[typeddict-item] # official's keys, as documented


def student_names(step: TrainStep) -> dict[int, str]:
    """Return the names of the student's parameters by `id(parameter)`."""
    return {id(parameter): name for name, parameter in step.model.student.named_parameters()}


def official_settings(config: DictConfig, kernels: str) -> DictConfig:
    """Return a copy with the learning rate scaled for all ranks and every quirk at official's behaviour.

    Args:
        config: with official's keys, and `port`'s.
        kernels: the form that is compared, whatever the configuration says.
    """
    config = config.copy()
    config.quirks = dict.fromkeys(config.quirks, "official")
    config.kernels = kernels
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    return apply_scaling_rules(config, global_batch_size=config.train.batch_size_per_gpu * ranks)


@lru_cache(maxsize=8)
def prototype_settings(n_prototypes: int) -> DictConfig:
    """Return the default configuration with so many prototypes; it is only read."""
    config = default_config()
    config.prototype.n_prototypes = n_prototypes
    return config
