"""Work that one rank does for all, and errors that all ranks see: none may wait for a rank that has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch.distributed as dist

__all__ = ["on_all_ranks", "on_rank_zero", "rank"]

T = TypeVar("T")


def rank() -> int:
    """Return this process's number in the group; 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def on_rank_zero(function: Callable[[], T]) -> T:
    """Call a function on rank 0 and return its result on every rank; a collective.

    Raises:
        Exception: what the function raised, on every rank.
    """
    if not dist.is_initialized():
        return function()
    outcome: list[object] = [None]
    if rank() == 0:
        outcome[0] = _outcome(function)
    dist.broadcast_object_list(outcome, src=0)
    return cast(T, _result(outcome[0]))


def on_all_ranks(function: Callable[[], T]) -> list[T]:
    """Call a function on every rank and return all results, in order of rank, on every rank; a collective.

    Raises:
        Exception: what the function raised on the first rank that failed, on every rank.
    """
    if not dist.is_initialized():
        return [function()]
    outcomes: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, _outcome(function))
    return [cast(T, _result(outcome)) for outcome in outcomes]


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error


def _result(outcome: object) -> object:
    result, error = cast(tuple[object, Exception | None], outcome)
    if error is not None:
        raise error
    return result
