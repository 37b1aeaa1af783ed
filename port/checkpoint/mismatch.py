"""Says why a checkpoint's tensors do not fit a run's, before any is overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from port.checkpoint.metadata import config_differences
from port.checkpoint.state import SCALER_PREFIX

__all__ = ["check_tensors"]

SHOWN = 5
ABSENT = "absent"


def check_tensors(
    path: Path,
    saved: Mapping[str, object],
    into: Mapping[str, Tensor],
    saved_config: Mapping[str, Any],
    config: Mapping[str, Any] | None,
) -> None:
    """Compare names, shapes and types; the scaler's tensors may be on one side only, as precision may change.

    Args:
        path: the checkpoint, for the message.
        saved: what torch.distributed.checkpoint knows of each saved tensor.
        into: the run's tensors.
        saved_config: the checkpoint's configuration.
        config: the run's configuration; None leaves it out of the message.

    Raises:
        ValueError: they differ.
    """
    before = {name: _described(entry) for name, entry in saved.items()}
    after = {name: _described(tensor) for name, tensor in into.items()}
    differing = [
        f"{name}: {before.get(name, ABSENT)} saved, {after.get(name, ABSENT)} here"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not name.startswith(SCALER_PREFIX)
    ]
    if not differing:
        return
    more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    keys = [] if config is None else config_differences(saved_config, config)
    because = f" The configuration differs: {'; '.join(keys)}." if keys else ""
    raise ValueError(
        f"the checkpoint {path} does not fit this model: {'; '.join(differing[:SHOWN])}{more}.{because} Use the "
        "configuration of the checkpoint, or another output folder"
    )


def _described(tensor: object) -> str:
    if isinstance(tensor, TensorStorageMetadata):
        return f"{tuple(tensor.size)} {tensor.properties.dtype}"
    if isinstance(tensor, Tensor):
        return f"{tuple(tensor.shape)} {tensor.dtype}"
    return type(tensor).__name__
