"""Runs a function in two processes that form a gloo group."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

__all__ = ["run_on_two_ranks", "start_two"]

PATIENCE = 1800.0
"""Seconds after which ranks are taken to wait for each other in vain, on a busy machine too."""


def run_on_two_ranks(function: Callable[[int, Path], None], folder: Path) -> None:
    """Call `function(rank, folder)` on ranks 0 and 1 of one group; it reports through files in `folder`."""
    start_two(_run, function, folder)


def start_two(target: Callable[..., None], *arguments: object) -> None:
    """Call `target(*arguments, rank)` in two processes and wait for them; where one fails, the other is ended."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=(*arguments, rank)) for rank in range(2)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + PATIENCE
    while any(process.is_alive() for process in processes) and not any(process.exitcode for process in processes):
        assert time.monotonic() < deadline, "the ranks wait for each other"
        processes[0].join(0.05)
        processes[1].join(0.05)
    for process in processes:
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def _run(function: Callable[[int, Path], None], folder: Path, rank: int) -> None:
    torch.set_num_threads(1)  # two processes share the machine
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    function(rank, folder)
    dist.destroy_process_group()
