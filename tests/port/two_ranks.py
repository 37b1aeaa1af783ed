"""Runs a function in two processes that form a gloo group."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

__all__ = ["run_on_two_ranks"]


def run_on_two_ranks(function: Callable[[int, Path], None], folder: Path, timeout: float = 60) -> None:
    """Call `function(rank, folder)` on ranks 0 and 1 of one group; it reports through files in `folder`.

    Ranks that take more than `timeout` seconds fail.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run, args=(function, rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    assert [process.exitcode for process in processes] == [0, 0]


def _run(function: Callable[[int, Path], None], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)  # two processes share the machine
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    function(rank, folder)
    dist.destroy_process_group()
