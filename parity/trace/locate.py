"""Tells where a computation that was judged to differ begins to do so, and where again once that is put right."""

from __future__ import annotations

from collections.abc import Sequence

from parity.judge import Failed
from parity.results import Finding
from parity.trace.course import MOST_FAULTS, follow
from parity.trace.fingerprint import Index
from parity.trace.frontier import producer
from parity.trace.watch import Side, watched
from parity.trace.words import OPERATION, findings_of, line, told

__all__ = ["OPERATION", "locate"]


def locate(failed: Failed, reference: object, *, faults: int = MOST_FAULTS) -> list[Finding]:
    """Run a failed computation on both sides again, watched, and say which operations differ first.

    Args:
        failed: the computation; it is run once on either side, in float64, and again for each fault. Random
            generators are left as they were.
        reference: the official stack.
        faults: how many faults official's values are put in at; with 0 only the first is told.

    Returns:
        A finding per fault, root cause first, with both operations, their scalar arguments and places; before them one
        of the random draws, where these are not official's. Empty where no operation is to blame, as when a result is
        a number that no tensor operation made.
    """
    theirs, mine = watched(failed, reference), watched(failed, failed.subject)
    names = [name for name in failed.names if name in theirs.results and name in mine.results]
    if not names:
        return []
    course = follow(failed, reference, theirs, mine, faults=faults)
    return findings_of(failed.prefix, course) or _elsewhere(failed.prefix, mine, theirs, names)


def _elsewhere(prefix: str, mine: Side, theirs: Side, names: Sequence[str]) -> list[Finding]:
    """Tell results whose numbers the other side has too, at another place or in another order."""
    for name in names:
        left, right = theirs.prints[name], mine.prints[name]
        if left.arranged() == right.arranged():
            continue
        made, official = producer(mine.operations, right), producer(theirs.operations, right)
        where = f" at {told(made)}" if made is not None else ""
        if made is not None and official is not None and not Index([left]).has(right):
            what = f"{name} is what official has earlier, at {told(official)}"
        else:
            what = f"{name}, and all that led there, has official's numbers in another order"
        step = "compare the order of rows, tokens or steps"
        return [Finding(OPERATION, f"{prefix}{where}: {what}", step, line(official))]
    return []
