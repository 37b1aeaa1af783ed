"""One side of a failed computation, run in float64 and watched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from parity.judge import Failed, promoted
from parity.oracle import Float64Oracle
from parity.reference.isolation import preserved_random_state
from parity.trace.fingerprint import CLOSE, Fingerprint, Index, fingerprint
from parity.trace.frontier import choices, frontier, index_of
from parity.trace.record import UNWRITTEN, Operation, Recorder, arguments, outputs

__all__ = ["Side", "begins", "differing", "unknown", "values_of", "watched"]

_FLOOR = 1e-15
"""Of the largest result: what is below it is rounding, as the gradient of a bias that softmax cancels."""

_AS_BEFORE = 4.0
"""How many times as far as before a result may lie that did not differ: noise in which no two runs agree."""


@dataclass(frozen=True)
class Side:
    """What a side did and what came of it.

    Attributes:
        operations: in the order of execution.
        results: the tensors that the computation returned, by name.
    """

    operations: list[Operation]
    results: dict[str, Tensor]

    @cached_property
    def prints(self) -> dict[str, Fingerprint]:
        """Contents of the results."""
        return {name: fingerprint(value) for name, value in self.results.items()}

    @cached_property
    def contents(self) -> Index:
        """Every content that the side had."""
        return index_of(self.operations)

    @cached_property
    def arranged(self) -> Index:
        """The same, where order counts."""
        return index_of(self.operations, arranged=True)


def watched(failed: Failed, stack: object, recorder: Recorder | None = None) -> Side:
    """Run a computation on a stack, in float64; random generators are left as they were.

    Args:
        failed: the computation and its inputs.
        stack: the reference or the subject.
        recorder: what records it, by default a plain one.
    """
    recorder = Recorder() if recorder is None else recorder
    found = _run(failed, stack, recorder)
    return Side(recorder.operations, {name: v.detach() for name, v in found.items() if isinstance(v, Tensor)})


def _run(failed: Failed, stack: object, mode: TorchDispatchMode) -> Mapping[str, Any]:
    with preserved_random_state(), Float64Oracle(), mode:
        given = {name: value.clone() for name, value in promoted(failed.inputs).items()}
        return failed.compute(stack, given)


def begins(side: Side, other: Side, names: Iterable[str]) -> list[Operation]:
    """Return where a side's results of these names begin to differ: choices of indices before that first."""
    results = [side.prints[name] for name in names]
    found = frontier(side.operations, results, other.contents)
    chosen = choices(side.operations, results, other.arranged)
    return [op for op in chosen if not found or op.index < found[0].index] + found


def unknown(side: Side, other: Side) -> list[bool]:
    """Return for each operation of a side whether the other side lacks one of its results.

    Memory that was not written has no content that could be lacking: what lies there is another thing in each run.
    """
    has = other.contents.has
    return [op.name not in UNWRITTEN and not all(map(has, op.outputs)) for op in side.operations]


def differing(mine: Side, theirs: Side, failed: Collection[str], before: Side | None = None) -> list[str]:
    """Return the names of the results that differ by more than rounding.

    Args:
        mine: the subject's side.
        theirs: the reference's.
        failed: names that the judge found to differ; of the others, only those are returned that are further off than
            `before`, as the judge knows better than this function how far rounding may move them.
        before: the subject's side without any value put in.
    """
    shared = [name for name in theirs.results if name in mine.results]
    sizes = {name: rms if isfinite(rms := theirs.prints[name].rms) else 0.0 for name in shared}
    largest = max(sizes.values(), default=0.0)
    found = []
    for name in shared:
        allowed = max(CLOSE * sizes[name], _FLOOR * largest)
        if name not in failed and before is not None:
            allowed = max(allowed, _AS_BEFORE * _distance(before.results[name], theirs.results[name]))
        if not _distance(mine.results[name], theirs.results[name]) <= allowed:
            found.append(name)
    return found


def _distance(left: Tensor, right: Tensor) -> float:
    if left.shape != right.shape:
        return float("inf")
    if not left.numel() or torch.equal(left, right):
        return 0.0
    # Where both are NaN they agree; where one is, the distance is NaN, which is within no bound.
    apart = (left.double() - right.double()).abs()
    apart[(left == right) | (left.isnan() & right.isnan())] = 0.0
    return float(apart.max())


def values_of(failed: Failed, stack: object, wanted: Collection[int]) -> dict[int, list[Tensor]]:
    """Run a computation again as `watched` did, and return copies of the results of some operations.

    Args:
        failed: the computation and its inputs.
        stack: the reference.
        wanted: indices of operations; a run is deterministic, so that they are those of another run.

    Returns:
        The tensors of each index, in the order of `Operation.outputs`.
    """
    keeper = _Keeper(wanted)
    if wanted:
        _run(failed, stack, keeper)
    return keeper.values


class _Keeper(TorchDispatchMode):
    def __init__(self, wanted: Collection[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.values: dict[int, list[Tensor]] = {}
        self._wanted = frozenset(wanted)
        self._index = -1

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **dict(kwargs or {}))
        self._index += func.namespace != "profiler"  # as the recorder counts
        if func.namespace != "profiler" and self._index in self._wanted:
            _, _, written = arguments(func, args, kwargs or {})
            self.values[self._index] = [t.detach().clone() for t in outputs(result, written)]
        return result
