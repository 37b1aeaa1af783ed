"""Tells where a computation that was judged to differ begins to do so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from parity.judge import Failed, promoted
from parity.oracle import Float64Oracle
from parity.results import Finding
from parity.trace.fingerprint import Fingerprint, Index, fingerprint
from parity.trace.frontier import choices, frontier, index_of, producer
from parity.trace.record import Operation, Recorder

__all__ = ["OPERATION", "locate"]

OPERATION = "operation"
"""Id of the findings: the first operation whose result differs."""

_MOST_OTHERS = 2
_MOST_SCALARS = 4


@dataclass(frozen=True)
class _Side:
    operations: list[Operation]
    results: dict[str, Fingerprint]


def locate(failed: Failed, reference: object) -> Finding | None:
    """Run a failed computation on both sides again, watched, and say which operation differs first.

    Args:
        failed: the computation; it is run once on either side, in float64.
        reference: the official stack.

    Returns:
        A finding with both operations, their scalar arguments and places; None where no operation is to blame, as when
        a result is a number that no tensor operation made.
    """
    theirs, mine = _watched(failed, reference), _watched(failed, failed.subject)
    names = [name for name in failed.names if name in theirs.results and name in mine.results]
    if not names:
        return None
    yours = _begins(mine, theirs, names)
    official = _begins(theirs, mine, names)
    if not yours and not official:
        return _elsewhere(failed.prefix, mine, theirs, names)
    return _finding(failed.prefix, yours, official)


def _begins(side: _Side, other: _Side, names: Sequence[str]) -> list[Operation]:
    """Return where a side's results begin to differ: choices of indices before that first."""
    results = [side.results[name] for name in names]
    found = frontier(side.operations, results, index_of(other.operations))
    chosen = choices(side.operations, results, other.operations)
    return [op for op in chosen if not found or op.index < found[0].index] + found


def _watched(failed: Failed, stack: object) -> _Side:
    with Float64Oracle(), Recorder() as recorder:
        given = {name: value.clone() for name, value in promoted(failed.inputs).items()}
        found = failed.compute(stack, given)
    results = {name: fingerprint(value) for name, value in found.items() if isinstance(value, Tensor)}
    return _Side(recorder.operations, results)


def _finding(prefix: str, yours: Sequence[Operation], official: Sequence[Operation]) -> Finding:
    mine = yours[0] if yours else None
    lacking = official and (mine is None or (mine.backward and not official[0].backward))
    theirs = official[0] if lacking else _counterpart(mine, official)
    told = f"at {_told(mine)}" if mine is not None else ""
    if lacking:
        sentence = f"yours lacks what official does at {_told(official[0])}" + (
            f", and first differs {told}" if told else ""
        )
    else:
        sentence = f"first differs {told}: official has what goes in, but not what comes out{_sizes(mine, theirs)}"
        sentence += f"; official: {_told(theirs)}" if theirs is not None else ""
    others = [other for other in dict.fromkeys(map(_told, yours)) if mine is None or other != _told(mine)]
    if others:
        sentence += f"; further first differences, independent of it: {'; '.join(others[:_MOST_OTHERS])}"
    return Finding(
        OPERATION,
        f"{prefix} {sentence}",
        "compare the two lines; `python -m parity explain operation` says how they were found",
        _line(theirs),
    )


def _counterpart(mine: Operation | None, official: Sequence[Operation]) -> Operation | None:
    """Return official's operation that stands where mine does: of one name, then of most inputs in common."""
    if mine is None or not official:
        return official[0] if official else None

    def rank(op: Operation) -> tuple[bool, int, int]:
        shared = sum(any(a.vector() == b.vector() for b in mine.inputs) for a in op.inputs)
        return op.name == mine.name, shared, -op.index

    return max(official, key=rank)


def _told(op: Operation) -> str:
    scalars = ", ".join(f"{name}={value:.40}" for name, value in op.scalars[:_MOST_SCALARS])
    where = f" at {_short(op.place)}" if op.place else ""
    return f"{op.name}({scalars}){' in the backward pass' if op.backward else ''}{where}"


def _sizes(mine: Operation | None, theirs: Operation | None) -> str:
    if mine is None or theirs is None or not mine.outputs or not theirs.outputs:
        return ""
    a, b = mine.outputs[0], theirs.outputs[0]
    if a.numel != b.numel:
        return f" ({a.numel} elements, official {b.numel})"
    return f" (rms {a.rms:.9g}, official {b.rms:.9g})" if a.rms != b.rms else ""


def _elsewhere(prefix: str, mine: _Side, theirs: _Side, names: Sequence[str]) -> Finding | None:
    """Tell results whose numbers the other side has too, at another place or in another order."""
    for name in names:
        left, right = theirs.results[name], mine.results[name]
        if left.arranged() == right.arranged():
            continue
        made, official = producer(mine.operations, right), producer(theirs.operations, right)
        where = f" at {_told(made)}" if made is not None else ""
        if made is not None and official is not None and not Index([left]).has(right):
            what = f"{name} is what official has earlier, at {_told(official)}"
        else:
            what = f"{name}, and all that led there, has official's numbers in another order"
        return Finding(
            OPERATION, f"{prefix}{where}: {what}", "compare the order of rows, tokens or steps", _line(official)
        )
    return None


def _line(op: Operation | None) -> str:
    """Return the file and line of an official operation; empty where there is none or it is not known."""
    return _short(op.place).partition(" in ")[0] if op is not None else ""


def _short(place: str) -> str:
    """Return a place with its path from the package on, or from the working directory."""
    official = re.search(r"(?:^|/)(dinov2/(?:\w+/)*\w+\.py:.*)", place)
    if official and "site-packages" not in place.rsplit("/dinov2/", 1)[0]:
        return official[1]
    try:
        return str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return place
