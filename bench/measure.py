"""Seconds, peak memory, model FLOPs and the machine's ceiling, measured inside the process of one arm."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

__all__ = ["Ceiling", "PeakMemory", "Stopwatch", "flop_counter", "is_out_of_memory"]

aten = torch.ops.aten
CPU_FAILURES = ("can't allocate", "not enough memory", "DefaultCPUAllocator", "Cannot allocate memory")
"""What torch's CPU allocator says of itself in a RuntimeError; it has no class of its own."""
RESET_PEAK = "5"
"""Written to `/proc/self/clear_refs`, it sets the largest resident size to the present one (man 5 proc)."""


def flop_counter() -> FlopCounterMode:
    """Return torch's counter, taught the attention kernel of a CPU, which it does not know by itself."""
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
        },
    )


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products of (N, d) and (d, N) size per head."""
    return int(sdpa_flop_count(query, key, value))


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Five such products: the kernel computes the scores again."""
    return int(sdpa_backward_flop_count(gradient, query, key, value))


class Stopwatch:
    """Times one iteration: by CUDA events, or by the wall clock, or by the seconds that the process itself used.

    Args:
        device: cpu or cuda.
        clock: `wall` or `cpu`.
        threads: of torch; the process's seconds are shared between them.
    """

    def __init__(self, device: str, clock: str, threads: int) -> None:
        self._cuda = device == "cuda"
        self._now: Callable[[], float] = time.process_time if clock == "cpu" else time.perf_counter
        self._share = threads if clock == "cpu" else 1
        self._began: Any = None

    def start(self) -> None:
        """Start; on CUDA, where the device is at that time."""
        self._began = self._mark()

    def stop(self) -> float:
        """Return the seconds since `start`."""
        ended = self._mark()
        if not self._cuda:
            return float(ended - self._began) / self._share
        torch.cuda.synchronize()
        return float(self._began.elapsed_time(ended)) / 1000

    def _mark(self) -> Any:
        if not self._cuda:
            return self._now()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class PeakMemory:
    """How far memory rises above what it is at a moment: the allocator's on CUDA, resident pages on Linux.

    Args:
        device: cpu or cuda.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._before: int | None = None

    def start(self) -> None:
        """Take the present size as the base, after freed memory went back to the system."""
        gc.collect()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        elif _resident("VmRSS") is not None:
            if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # musl has none
                trim(0)
            self._before = _resident("VmRSS")
            Path("/proc/self/clear_refs").write_text(RESET_PEAK, "ascii")

    def rise(self) -> int | None:
        """Return bytes above the base at the highest point since, or None where the system does not tell."""
        if self._before is None:
            return None
        highest = torch.cuda.max_memory_allocated() if self._cuda else _resident("VmHWM")
        return None if highest is None else highest - self._before


def _resident(field: str) -> int | None:
    """Return a size of this process in bytes, from `/proc/self/status`; None away from Linux."""
    if not sys.platform.startswith("linux"):
        return None
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


class Ceiling:
    """What a step could reach at most: the FLOPs per second of a large matrix product.

    Its matrices are made once and kept, so that measuring between two iterations raises no peak of memory.

    Args:
        device: cpu or cuda.
        precision: fp32 or bf16.
        clock: as for `Stopwatch`.
        threads: likewise.
    """

    def __init__(self, device: str, precision: str, clock: str = "wall", threads: int = 1) -> None:
        self._size, self._repeats = (8192, 10) if device == "cuda" else (1024, 6)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        shape = (self._size, self._size)
        self._left, self._right = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
        self._product = torch.empty(shape, device=device, dtype=dtype)
        self._watch = Stopwatch(device, clock, threads)

    def measure(self) -> float:
        """Return FLOPs per second, the best of several products: other work on a machine only takes away."""
        best = float("inf")
        for _ in range(self._repeats):
            self._watch.start()
            torch.mm(self._left, self._right, out=self._product)
            best = min(best, self._watch.stop())
        return 2 * self._size**3 / best


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: CUDA's, Python's, or that of torch's CPU allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_FAILURES)
