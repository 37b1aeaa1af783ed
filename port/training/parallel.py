"""Several processes: their group, and how a model is spread over them."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from port.models import flat_blocks
from port.ssl_meta_arch import SSLMetaArch

__all__ = ["Processes", "checkpoint_activations", "compile_blocks", "parallelise", "process_group"]

BACKENDS = {"cuda": "nccl"}


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as torchrun's variables tell them; one process without torchrun.

    Attributes:
        rank: number of this process in all.
        world_size: number of processes.
        local_rank: number of this process on its machine.
        local_world_size: number of processes on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """Read torchrun's variables.

        Raises:
            ValueError: some are set and some are not, or one is not a number.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        values = [os.environ.get(name) for name in names]
        if all(value is None for value in values[:3]):
            return cls()
        if values[3] is None:
            values[3] = values[1]
        try:
            return cls(*(int(value or "missing") for value in values))
        except ValueError:
            told = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
            raise ValueError(f"{told}: expected all of them as numbers or none; start with torchrun") from None


@contextmanager
def process_group(processes: Processes, device: torch.device) -> Iterator[None]:
    """Join the group of all processes, and leave it; a process alone needs none."""
    if processes.world_size == 1 and "MASTER_ADDR" not in os.environ:
        yield
        return
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(device)
    # Told its device, NCCL need not guess one at the first barrier.
    dist.init_process_group(
        BACKENDS.get(device.type, "gloo"), timeout=timedelta(minutes=30), device_id=device if on_cuda else None
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def checkpoint_activations(backbone: nn.Module) -> None:
    """Let each block keep its inputs only, and run again in the backward pass, with the same random numbers."""
    for block in _blocks(backbone):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(backbone: nn.Module) -> None:
    """Compile each block in place; names in the state dict stay."""
    # The compiler looks whether a block's inputs have gradients, which are no leaves from the second block on.
    warnings.filterwarnings(
        "ignore", message="The .grad attribute of a Tensor that is not a leaf", category=UserWarning
    )
    for block in _blocks(backbone):
        block.compile()


def parallelise(model: SSLMetaArch, mode: str, device: torch.device) -> None:
    """Spread a model over the group's processes; one process keeps it as it is.

    Args:
        model: on `device`, alike on all ranks.
        mode: `ddp`: every rank holds everything, gradients are averaged. `fsdp`: parameters, gradients and
            optimizer state are sharded by block (`dinov2/fsdp/__init__.py:21` shards likewise).
        device: of this process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    if mode == "fsdp":
        _shard(model, device)
    else:
        _replicate(model, device)


def _replicate(model: SSLMetaArch, device: torch.device) -> None:
    # Each rank updates its centres alike; sending rank 0's at every forward pass would be in vain.
    known = inspect.signature(DistributedDataParallel).parameters
    options: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    wrapper = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )

    def gradient_sync(last: bool) -> AbstractContextManager[object]:
        return nullcontext() if last else wrapper.no_sync()

    model.wrapped_forward = wrapper.__call__
    model.gradient_sync = gradient_sync


def _shard(model: SSLMetaArch, device: torch.device) -> None:
    # Blocks return views of packed rows; nothing here changes a module's output in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor", category=UserWarning)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    roots = [*model.student.values(), *model.teacher.values()]
    if model.do_prototypes:
        roots.append(model.prototype_loss)
    for root in roots:
        for block in _blocks(root):
            fully_shard(block, mesh=mesh)
        # The teacher has no backward pass that would shard its outermost parameters again before the moving average.
        fully_shard(root, mesh=mesh, reshard_after_forward=True)
    if model.do_prototypes:
        register_fsdp_forward_method(model.prototype_loss, "assign")
    trained = [root for root in roots if any(p.requires_grad for p in root.parameters())]

    def gradient_sync(last: bool) -> AbstractContextManager[object]:
        for root in trained:
            assert isinstance(root, FSDPModule)
            root.set_requires_gradient_sync(last)
        return nullcontext()

    model.gradient_sync = gradient_sync


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Return a backbone's blocks; a head has none."""
    blocks = getattr(module, "blocks", None)
    return flat_blocks(blocks) if isinstance(blocks, nn.ModuleList) else []
