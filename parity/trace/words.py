"""Operations and faults in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from parity.results import Finding
from parity.trace.course import AGREES, BOUND, MOST_FAULTS, NO_RETURN, NO_VALUE, PARTLY, Course, Step
from parity.trace.record import Operation
from parity.trace.replay import shared
from parity.trace.tape import Draws, drawn

__all__ = ["OPERATION", "findings_of", "line", "told"]

OPERATION = "operation"
"""Id of the findings: the first operation whose result differs."""

_MOST_OTHERS = 2
_MOST_SCALARS = 4
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_STEP = "compare the two lines; `python -m parity explain operation` says how they were found"
_ENDS = {
    NO_VALUE: "whether more is wrong behind it is not known: no value of official's has its shape and type",
    NO_RETURN: "whether more is wrong behind it is not known: official's value there does not lead back to its numbers",
    BOUND: "more may be wrong behind it: no more than this is looked for",
}


def findings_of(prefix: str, course: Course) -> list[Finding]:
    """Return what was found, root cause first; random draws that are not official's before what differs beside them.

    Args:
        prefix: what the comparisons' names begin with.
        course: the faults.
    """
    found = []
    agrees = course.end == AGREES
    if course.draws is not None:
        found.append(_other_draws(prefix, course.draws, alone=agrees and not course.steps, taped=course.taped))
    unmatched = course.draws.unmatched()[0] if course.draws is not None else []
    steps = [step for step in course.steps if not (step.yours and step.yours[0] in unmatched)]
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        text = _step(step, i, taped=course.taped)
        if last and course.end in (AGREES, PARTLY):
            values = "values" if i else "value"
            text += f"; with official's {values} there, {'all else agrees' if agrees else 'some results still differ'}"
        elif last and step is course.steps[-1] and course.end in _ENDS:
            text += f"; {_ENDS[course.end]}"
        found.append(Finding(OPERATION, f"{prefix} {text}", _STEP, line(_theirs(step))))
    return found


def _step(step: Step, number: int, *, taped: bool) -> str:
    mine = step.yours[0] if step.yours else None
    theirs = _theirs(step)
    at = f"at {told(mine)}" if mine is not None else ""
    nth = _ORDINALS[min(number, MOST_FAULTS - 1)]
    put_in = f" with official's {'value there' if number else 'draws'}" if number or taped else ""
    if number and step.rule is None:
        # Nothing shows that it is a fault of its own.
        sentence = f"{nth}, perhaps part of the one before,{put_in}, differs {at}" if at else ""
        sentence = sentence or f"{nth}, perhaps part of the one before, yours lacks{put_in}"
        sentence += f"; official: {told(theirs)}" if theirs is not None else ""
    elif _lacking(step):
        lacks = f"{nth},{put_in}, yours lacks" if number else "yours lacks"
        sentence = f"{lacks} what official does at {told(theirs)}" + (f", and first differs {at}" if at else "")
    else:
        begins = f"{nth},{put_in}, differs" if number else f"first differs{put_in}"
        sentence = f"{begins} {at}: official has what goes in, but not what comes out{_sizes(mine, theirs)}"
        if step.rule is not None and not step.rule.pool:
            sentence += "; official goes on with what goes in"
        sentence += f"; official: {told(theirs)}" if theirs is not None else ""
    more = [place for place in step.places if mine is not None and place != mine.place]
    if more:
        sentence += f"; likewise at {'; '.join(short(place) for place in more)}"
    others = [other for other in dict.fromkeys(map(told, step.yours)) if mine is None or other != told(mine)]
    if others and step.rule is None:
        sentence += f"; further first differences, independent of it: {'; '.join(others[:_MOST_OTHERS])}"
    return sentence


def _lacking(step: Step) -> bool:
    mine = step.yours[0] if step.yours else None
    return bool(step.official) and (mine is None or (mine.backward and not step.official[0].backward))


def _theirs(step: Step) -> Operation | None:
    """Return official's operation: the one that leads back to its numbers, else what fits best where they begin."""
    if _lacking(step):
        return step.official[0]
    mine, rule = step.yours[0] if step.yours else None, step.rule
    if rule is not None and mine is not None and not rule.anyway:
        # One that reads what yours has not is only the next that both have: what is before it is told.
        known = [op for op in rule.pool if op in step.official and op.backward == mine.backward]
        if known:
            return max(known, key=lambda op: (shared(mine, op), op.name == mine.name, -op.index))
    return _counterpart(mine, step.official)


def _counterpart(mine: Operation | None, official: Sequence[Operation]) -> Operation | None:
    """Return official's operation that stands where mine does: of one name, then of most inputs in common."""
    if mine is None or not official:
        return official[0] if official else None

    def rank(op: Operation) -> tuple[bool, int, int]:
        common = sum(any(a.vector() == b.vector() for b in mine.inputs) for a in op.inputs)
        return op.name == mine.name, common, -op.index

    return max(official, key=rank)


def _other_draws(prefix: str, draws: Draws, *, alone: bool, taped: bool) -> Finding:
    """Say which draw is not official's, and which cannot be given official's outcome."""
    other = draws.first_other()
    assert other is not None
    number, mine, theirs = other
    yours, official = draws.unmatched()
    if yours or official or not taped:
        told_yours = f"yours {_drawn_at(yours)}" if yours else "yours nothing there"
        told_official = f"official {_drawn_at(official)}" if official else "official nothing more"
        text = f"draws random numbers without a counterpart: {told_yours}; {told_official}; they cannot be replayed"
        text += ", so that what follows from them cannot be compared"
    else:
        text = "same computation, other random draws: " if alone else "other random draws: "
        text += f"draw {number} is {_drawn_at([mine] if mine else [])} on yours, "
        text += f"official draws {_drawn_at([theirs] if theirs else [])}"
        same = mine is not None and theirs is not None and drawn([mine]) == drawn([theirs])
        text += ", with another outcome" if same else ""
        text += "; with official's draws, all else agrees" if alone else ""
    step = "draw what official draws, in its order, or compare evaluations, which draw nothing"
    return Finding(OPERATION, f"{prefix} {text}", step, line(theirs))


def _drawn_at(draws: Sequence[Operation]) -> str:
    if not draws:
        return "nothing"
    place = short(draws[0].place)
    return drawn(draws) + (f", at {place}" if place else "")


def told(op: Operation | None) -> str:
    """Return an operation in words: name, scalars, whether in the backward pass, place; empty for none."""
    if op is None:
        return ""
    scalars = ", ".join(f"{name}={value:.40}" for name, value in op.scalars[:_MOST_SCALARS])
    where = f" at {short(op.place)}" if op.place else ""
    return f"{op.name}({scalars}){' in the backward pass' if op.backward else ''}{where}"


def _sizes(mine: Operation | None, theirs: Operation | None) -> str:
    if mine is None or theirs is None or not mine.outputs or not theirs.outputs:
        return ""
    a, b = mine.outputs[0], theirs.outputs[0]
    if a.numel != b.numel:
        return f" ({a.numel} elements, official {b.numel})"
    return f" (rms {a.rms:.9g}, official {b.rms:.9g})" if a.rms != b.rms else ""


def line(op: Operation | None) -> str:
    """Return the file and line of an official operation; empty where there is none or it is not known."""
    return short(op.place).partition(" in ")[0] if op is not None else ""


def short(place: str) -> str:
    """Return a place with its path from the package on, or from the working directory."""
    official = re.search(r"(?:^|/)(dinov2/(?:\w+/)*\w+\.py:.*)", place)
    if official and "site-packages" not in place.rsplit("/dinov2/", 1)[0]:
        return official[1]
    try:
        return str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return place
