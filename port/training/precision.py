"""Where a run computes, and in which precision."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.utils.deterministic
from omegaconf import DictConfig

__all__ = [
    "autocast",
    "choose_device",
    "choose_precision",
    "gradient_scaler",
    "keep_freed_memory",
    "limit_threads",
    "reproducible",
]

# Parameters of glibc's mallopt, from malloc.h; the values are ints.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LARGEST_INT = -1, -3, 2**31 - 1
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device of this process.

    Args:
        name: auto, cpu, cuda or mps; auto takes the first there is of cuda, mps, cpu.
        local_rank: number of this process on its machine; it picks the CUDA device.

    Raises:
        ValueError: the device does not exist here, or there are fewer CUDA devices than processes.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available.get(name, False):
        there = ", ".join(kind for kind, found in available.items() if found)
        raise ValueError(f"device is {name!r}, expected auto or one that this machine has: {there}")
    if name != "cuda":
        return torch.device(name)
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine finds {torch.cuda.device_count()} CUDA devices, expected one per "
            "process; lower --nproc-per-node"
        )
    return torch.device("cuda", local_rank)


def choose_precision(name: str, device: torch.device) -> str:
    """Return fp32, bf16 or fp16.

    Args:
        name: one of these, or auto: bf16 on a CUDA device that has it, otherwise fp32.
        device: where to compute.

    Raises:
        ValueError: fp16 away from CUDA: its gradients need a scaler, which torch offers there only.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise ValueError(f"precision is 'fp16' on {device.type}, expected bf16 or fp32 there; fp16 needs a CUDA device")
    return name


def autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return what forward passes are entered with; nothing for fp32.

    Unlike official's FSDP, which casts whole modules (`dinov2/fsdp/__init__.py:32`), autocast keeps norms, softmax
    and losses in fp32; gradients and optimizer are fp32 in both.
    """
    dtype = DTYPES[precision]
    return nullcontext if dtype is None else partial(torch.autocast, device.type, dtype=dtype)


def gradient_scaler(precision: str, cfg: DictConfig) -> torch.amp.GradScaler | None:
    """Return a scaler for fp16, unless `compute_precision.grad_scaler` is off; None for the others."""
    return torch.amp.GradScaler("cuda") if precision == "fp16" and cfg.compute_precision.grad_scaler else None


def limit_threads(local_world_size: int) -> None:
    """Share the machine's cores between its processes, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ or local_world_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_world_size))


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next step, instead of handing it back to the system.

    A step on a CPU frees and allocates the same large tensors, and each new page of them costs a page fault. Other
    systems, and an environment that sets MALLOC_* itself, are left alone.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(parameter, LARGEST_INT)


@contextmanager
def reproducible(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Let the same run give the same bits: on a CPU always, elsewhere where asked for.

    On several threads of a CPU the backward pass through KoLeo's choice of neighbours otherwise adds in any order.

    Args:
        device: where to compute.
        deterministic: `cfg.deterministic`; CUDA is slower with it.
    """
    settings: Any = torch.utils.deterministic  # a property of the module, which type checkers do not see
    before = torch.are_deterministic_algorithms_enabled()
    fill = settings.fill_uninitialized_memory
    if device.type == "cpu" or deterministic:
        # cuBLAS reads this when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # Nothing here reads memory that it has not written.
        settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill
