"""The line that says on what a run computes."""

from __future__ import annotations

import os
import platform

import torch
import torch.distributed as dist

__all__ = ["hardware_line"]


def hardware_line(device: torch.device, precision: str = "") -> str:
    """Return one line with device, processes, threads and versions.

    Args:
        device: of this process.
        precision: as the run uses it; empty to leave it out.
    """
    processes = dist.get_world_size() if dist.is_initialized() else 1
    parts = [
        _device_name(device),
        *([precision] if precision else []),
        f"{processes} {'process' if processes == 1 else 'processes'}",
        f"{torch.get_num_threads()} threads of {os.cpu_count() or 1} CPUs",
        f"torch {torch.__version__}",
        f"Python {platform.python_version()}",
    ]
    return "hardware: " + ", ".join(parts)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    return f"{device} ({platform.machine() or 'unknown machine'})"
