"""What one rank computes when it is asked: its part of the numbers that are compared.

Each case gets the stack, plain options and this rank's tensors, and returns named tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor

from parity.names import canonical_mapping
from parity.stack import stack_name

__all__ = ["CASES"]

Tensors = Mapping[str, Tensor]


def _sinkhorn(stack: Any, options: Mapping[str, Any], given: Tensors) -> dict[str, Tensor]:
    """Assign this rank's rows."""
    return {"assignments": stack.sinkhorn(options["kind"], given["logits"].clone(), options["teacher_temp"])}


def _centering(stack: Any, options: Mapping[str, Any], given: Tensors) -> dict[str, Tensor]:
    """Centre this rank's rows, batch by batch, and return the centre after the last of them."""
    batches = [given[f"batch {i}"].clone() for i in range(len(given))]
    targets, center = stack.softmax_center(options["kind"], batches, options["teacher_temp"])
    return {**{f"target {i}": target for i, target in enumerate(targets)}, "centre": center.flatten()}


def _step(stack: Any, options: Mapping[str, Any], given: Tensors) -> dict[str, Tensor]:
    """Train one iteration on this rank's batch; drop path draws from a seed of the rank, as official's does."""
    config = OmegaConf.create(options["config"])
    state = {name.removeprefix("state "): tensor for name, tensor in given.items() if name.startswith("state ")}
    batch: dict[str, Any] = {name: tensor for name, tensor in given.items() if not name.startswith("state ")}
    batch["upperbound"] = int(batch["upperbound"])
    seed = int(options["seed"]) + dist.get_rank()
    result = stack.distributed_step(config, state, batch, options["iteration"], seed)
    flat: dict[str, Tensor] = {}
    for part in options["parts"]:
        named = canonical_mapping({n: v for n, v in result.get(part, {}).items() if v is not None}, stack_name(stack))
        flat |= {f"{part}/{name}": torch.as_tensor(value) for name, value in named.items()}
    return flat


CASES: Mapping[str, Callable[[Any, Mapping[str, Any], Tensors], dict[str, Tensor]]] = {
    "sinkhorn": _sinkhorn,
    "centering": _centering,
    "step": _step,
}
"""By name, as `parity.ranks.pair.Pair.ask` takes them."""
