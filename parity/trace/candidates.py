"""What of official's may be put in the place of an operation that differs, likeliest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from parity.trace.record import Operation
from parity.trace.replay import Rule, fits, shared
from parity.trace.tape import is_draw
from parity.trace.watch import Side, unknown

__all__ = ["candidates", "certain", "consequences"]


def candidates(first: Operation, official: Sequence[Operation], mine: Side, theirs: Side) -> Iterator[Rule]:
    """Yield what may be put in the place of an operation's results, likeliest first.

    Args:
        first: an operation of the subject, where it begins to differ.
        official: where the reference's results do.
        mine: the subject's side.
        theirs: the reference's.
    """
    lacks = unknown(theirs, mine)
    lacking = [op for op in theirs.operations if lacks[op.index]]
    # Of one name: where an operation before it is left out, official's reads another content.
    alike = _best(first, [op for op in lacking if op.name == first.name])
    other = _best(first, [op for op in official if op.name != first.name and shared(first, op)])
    for found in (alike, other):
        if found is not None:
            yield _rule(first, found, theirs)
    if is_draw(first) or not official:
        return
    if any(item.numel == first.outputs[0].numel and theirs.contents.has(item) for item in first.inputs):
        yield Rule(first, frozenset(), ())
    for later in consequences(first, mine, theirs):
        found = _best(later, [op for op in lacking if op.name == later.name and shared(later, op)])
        if found is not None:
            yield Rule(later, frozenset(), _pool(found, theirs), anyway=True)
            return


def _rule(first: Operation, official: Operation, side: Side) -> Rule:
    mine, theirs = set(first.scalars), set(official.scalars)
    other = frozenset(mine - theirs) if first.name == official.name else frozenset()
    pool = _pool(official, side)
    if other:
        like = theirs - mine
        known = {op.index for op in pool}
        pool += tuple(
            op
            for op in side.operations
            if op.name == official.name and like <= set(op.scalars) and op.index not in known
        )
    return Rule(first, other, pool)


def _pool(official: Operation, theirs: Side) -> tuple[Operation, ...]:
    """Return the operations of its name on official's line, and those of the backward pass of that line."""
    return tuple(
        op
        for op in theirs.operations
        if op.index == official.index
        or (official.place and op.place == official.place and (op.name == official.name or op.backward))
    )


def consequences(first: Operation, mine: Side, theirs: Side) -> Iterator[Operation]:
    """Yield the operations that read what comes of `first` and whose results official lacks."""
    reached = {(item.numel, item.vector()) for item in first.outputs}
    for op in mine.operations[first.index + 1 :]:
        if any((item.numel, item.vector()) in reached for item in op.inputs):
            if all(theirs.contents.has(item) for item in op.outputs):
                continue
            reached |= {(item.numel, item.vector()) for item in op.outputs}
            yield op


def _best(mine: Operation, pool: Iterable[Operation]) -> Operation | None:
    """Return official's operation that another should have been, by what both read; None where none fits."""
    fitting = [op for op in pool if op.backward == mine.backward and fits(mine, op)]
    return max(fitting, key=lambda op: (shared(mine, op), -op.index), default=None)


def certain(first: Operation, rule: Rule) -> bool:
    """Whether the two are the same operation of the same contents: then the next may be a fault as well."""
    n = len(first.inputs)
    return any(op.name == first.name and 0 < n == len(op.inputs) <= shared(first, op) for op in rule.pool)
