"""Where a difference begins: the operations whose inputs the other side has, and whose results it has not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from parity.trace.fingerprint import Fingerprint, Index
from parity.trace.record import CONSTANT, UNWRITTEN, Operation
from parity.trace.tape import is_draw

__all__ = ["choices", "frontier", "index_of", "producer"]

_NEUTRAL = UNWRITTEN | CONSTANT

_ROUNDING = 1e-12
"""Relative distance of moments of one content that is summed in two arrangements."""


def index_of(operations: Iterable[Operation], *, arranged: bool = False) -> Index:
    """Return the contents of every tensor that the operations read or wrote; see `Index`."""
    written = (op for op in operations if op.name not in UNWRITTEN)
    return Index((item for op in written for item in (*op.inputs, *op.outputs)), arranged=arranged)


def choices(operations: Sequence[Operation], results: Iterable[Fingerprint], known: Index) -> list[Operation]:
    """Return the operations at which results begin to differ that chose other indices than the other side's.

    A choice, such as that of a nearest neighbour, may lead to the same numbers in another order, which is no difference
    to `frontier`. Here order counts, in `known` too; what is only laid out otherwise is left out, as it makes no
    indices. A random draw that a choice comes from is one itself.
    """
    found = frontier(operations, results, known)
    return [op for op in found if is_draw(op) or any(item.discrete and not known.has(item) for item in op.outputs)]


def producer(operations: Sequence[Operation], result: Fingerprint) -> Operation | None:
    """Return the operation that made a result; None where no single one did."""
    return next(iter(_Producers(operations).of(result, before=len(operations), writers=())), None)


def frontier(operations: Sequence[Operation], results: Iterable[Fingerprint], other: Index) -> list[Operation]:
    """Return the operations at which results begin to differ, in the order of execution.

    Args:
        operations: of one side.
        results: contents on that side that differ from the other's.
        other: contents of the other side.

    Returns:
        Operations that led to the results, whose inputs the other side has and of whose outputs it lacks one. Empty
        where no operation of that side led to what differs.
    """
    producers = _Producers(operations)
    lacking = [item for item in results if not other.has(item)]
    waiting = [op for item in lacking for op in producers.of(item, before=len(operations), writers=())]
    seen: set[int] = set()
    found: list[Operation] = []
    while waiting:
        op = waiting.pop()
        if op.index in seen:
            continue
        seen.add(op.index)
        unknown = [(item, writers) for item, writers in zip(op.inputs, op.writers, strict=True) if not other.has(item)]
        earlier = [p for item, writers in unknown for p in producers.of(item, before=op.index, writers=writers)]
        if earlier:
            waiting += earlier
        elif op.name not in _NEUTRAL and not all(other.has(item) for item in op.outputs):
            found.append(op)
    return sorted(found, key=lambda op: op.index)


class _Producers:
    """Finds the operation that a content comes from."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations
        self._exact: dict[tuple[float, ...], list[int]] = {}
        self._by_size: dict[int, list[tuple[int, Fingerprint]]] = {}
        for op in operations:
            for item in op.outputs:
                self._exact.setdefault((item.numel, *item.vector()), []).append(op.index)
                self._by_size.setdefault(item.numel, []).append((op.index, item))

    def of(self, item: Fingerprint, *, before: int, writers: Sequence[int]) -> list[Operation]:
        """Return the last operation before `before` with that output; else those that wrote to its memory."""
        index = self._last(item, before)
        if index is not None:
            op = self._operations[index]
            return [] if op.name in _NEUTRAL else [op]
        return [self._operations[i] for i in writers if i < before and self._operations[i].name not in _NEUTRAL]

    def _last(self, item: Fingerprint, before: int) -> int | None:
        """Return the index of that operation; sums of another arrangement of the same numbers differ by rounding."""
        exact = [i for i in self._exact.get((item.numel, *item.vector()), ()) if i < before]
        if exact:
            return exact[-1]
        near = (i for i, output in reversed(self._by_size.get(item.numel, ())) if i < before and _same(output, item))
        return next(near, None)


def _same(left: Fingerprint, right: Fingerprint) -> bool:
    pairs = zip(left.vector(), right.vector(), strict=True)
    return all(a == b or abs(a - b) <= _ROUNDING * right.rms for a, b in pairs)
