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
from parity.trace.fingerprint import Fingerprint, fingerprint
from parity.trace.frontier import frontier, index_of
from parity.trace.record import Operation, Recorder

__all__ = ["OPERATION", "locate"]

OPERATION = "operation"
"""Id of the findings: the first operation whose result differs."""

_MOST_TOLD = 3
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
    yours = frontier(mine.operations, [mine.results[n] for n in names], index_of(theirs.operations))
    official = frontier(theirs.operations, [theirs.results[n] for n in names], index_of(mine.operations))
    if not yours and not official:
        return _rearranged(failed.prefix, [n for n in names if _moved(theirs.results[n], mine.results[n])])
    return _finding(failed.prefix, yours, official)


def _watched(failed: Failed, stack: object) -> _Side:
    with Float64Oracle(), Recorder() as recorder:
        given = {name: value.clone() for name, value in promoted(failed.inputs).items()}
        found = failed.compute(stack, given)
    results = {name: fingerprint(value) for name, value in found.items() if isinstance(value, Tensor)}
    return _Side(recorder.operations, results)


def _finding(prefix: str, yours: Sequence[Operation], official: Sequence[Operation]) -> Finding:
    mine = yours[0] if yours else None
    theirs = _counterpart(mine, official)
    parts = [f"{prefix} first differs"]
    if mine is not None:
        parts.append(f"at {_told(mine)}: official has what goes in, but not what comes out{_sizes(mine, theirs)}")
    else:
        parts.append("where yours lacks an operation of official's")
    if theirs is not None:
        parts.append(f"; official: {_told(theirs)}")
    others = [told for told in dict.fromkeys(map(_told, yours)) if mine is None or told != _told(mine)][:_MOST_OTHERS]
    if others:
        parts.append(f"; further first differences, independent of it: {'; '.join(others)}")
    return Finding(
        OPERATION,
        " ".join(parts[:2]) + "".join(parts[2:]),
        "compare the two lines; `python -m parity explain operation` says how they were found",
        _short(theirs.place) if theirs is not None and theirs.place else "",
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


def _sizes(mine: Operation, theirs: Operation | None) -> str:
    if theirs is None or not mine.outputs or not theirs.outputs:
        return ""
    a, b = mine.outputs[0], theirs.outputs[0]
    if a.numel != b.numel:
        return f" ({a.numel} elements, official {b.numel})"
    return f" (rms {a.rms:.6g}, official {b.rms:.6g})" if a.rms != b.rms else ""


def _moved(left: Fingerprint, right: Fingerprint) -> bool:
    return left.numel == right.numel and left.projection != right.projection


def _rearranged(prefix: str, names: Sequence[str]) -> Finding | None:
    if not names:
        return None
    return Finding(
        OPERATION,
        f"{prefix}: {', '.join(names[:_MOST_TOLD])} and all that led there have official's numbers, in another order",
        "compare the order of rows, tokens or crops with official's",
    )


def _short(place: str) -> str:
    """Return a place with its path from the package on, or from the working directory."""
    official = re.search(r"(?:^|/)(dinov2/(?:\w+/)*\w+\.py:.*)", place)
    if official and "site-packages" not in place.rsplit("/dinov2/", 1)[0]:
        return official[1]
    try:
        return str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return place
