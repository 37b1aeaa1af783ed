"""Which faults a computation has, one after the other: each is found with official's values put in at those before."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from parity.judge import Failed
from parity.trace.record import Operation
from parity.trace.replay import Forcer, Rule, fits, shared
from parity.trace.tape import Draws, Tape, is_draw, kind, relevant
from parity.trace.watch import Side, begins, differing, unknown, values_of, watched

__all__ = ["MOST_FAULTS", "Course", "Step", "follow"]

MOST_FAULTS = 5
"""How many faults are told."""

_MOST_RUNS = 12
"""How often the subject is run again."""

AGREES, STOPPED, NO_VALUE, NO_RETURN, BOUND = "agrees", "stopped", "no value", "no return", "bound"


@dataclass
class Step:
    """One fault.

    Attributes:
        yours: where the subject's results begin to differ, the fault first.
        official: where the reference's do.
        rule: how official's value was put in there; None where it was not, or did not help.
        places: lines on which it was, in order.
    """

    yours: list[Operation]
    official: list[Operation]
    rule: Rule | None = None
    places: list[str] = field(default_factory=list)


@dataclass
class Course:
    """What was found.

    Attributes:
        steps: the faults, root cause first.
        end: why no more were looked for: `AGREES` where nothing differs any more.
        draws: draws of both sides, where the subject's are others and have to do with what differs.
        taped: whether official's draws were replayed, and led back to official's numbers.
    """

    steps: list[Step]
    end: str
    draws: Draws | None = None
    taped: bool = False


def follow(failed: Failed, reference: object, theirs: Side, mine: Side, *, faults: int = MOST_FAULTS) -> Course:
    """Find the faults of a computation in order.

    Args:
        failed: the computation.
        reference: the official stack.
        theirs: its side.
        mine: the subject's.
        faults: how many faults to put official's values in at; with 0 the first is found and nothing is put in.
    """
    return _Follower(failed, reference, theirs, mine).follow(faults)


class _Follower:
    def __init__(self, failed: Failed, reference: object, theirs: Side, mine: Side) -> None:
        self._failed, self._reference, self._theirs, self._first = failed, reference, theirs, mine
        self._side = mine
        self._rules: list[Rule] = []
        self._values: dict[int, list[Tensor]] = {}
        self._draws: Draws | None = None
        self._taped = False
        self._runs = 0

    def follow(self, faults: int) -> Course:
        steps: list[Step] = []
        names = [n for n in self._failed.names if n in self._theirs.results and n in self._side.results]
        end = AGREES if not names else ""
        self._replay_draws(names)
        while not end:
            names = (
                differing(self._side, self._theirs, self._failed.names, self._first)
                if self._rules or self._taped
                else names
            )
            if not names:
                end = AGREES
                break
            yours = begins(self._side, self._theirs, names)
            official = begins(self._theirs, self._side, names)
            known = next((s for s in steps if yours and s.rule is not None and _follows(yours[0], s)), None)
            if known is None and (yours or official):
                if len(steps) == max(faults, 1):
                    end = BOUND
                    break
                steps.append(Step(yours, official))
            if not yours or not faults:
                end = STOPPED
                break
            end = self._force(steps[-1] if known is None else known, yours, official, names)
        return Course(steps, end, self._draws, self._taped)

    def _replay_draws(self, names: Sequence[str]) -> None:
        """Put in official's draws where the difference begins at a draw."""
        yours, official = begins(self._side, self._theirs, names), begins(self._theirs, self._side, names)
        draws = relevant(self._side.operations, self._theirs.operations, yours, official)
        if draws is None or draws.first_other() is None:
            return
        self._draws = draws
        if {kind(op) for op in draws.yours} & {kind(op) for op in draws.official}:
            self._taped = True
            side, _ = self._run([])
            self._taped = self._better(side, ())
            self._side = side if self._taped else self._side
        if not self._taped and not any(draws.unmatched()):
            self._draws = None

    def _force(
        self, step: Step, yours: Sequence[Operation], official: Sequence[Operation], names: Sequence[str]
    ) -> str:
        """Put official's value in at the first of `yours`; return why that cannot go on, or nothing."""
        end = NO_VALUE
        for rule in self._candidates(yours[0], official):
            if self._runs >= _MOST_RUNS:
                return BOUND
            side, forced = self._run([*self._rules, rule])
            end = NO_RETURN
            if rule not in forced.values():
                continue
            if self._better(side, forced) or _certain(yours[0], rule):
                self._rules.append(rule)
                self._side = side
                step.rule = step.rule or rule
                lines = [self._side.operations[i].place for i, r in forced.items() if r is rule]
                step.places += [line for line in dict.fromkeys(lines) if line and line not in step.places]
                return ""
        return end

    def _run(self, rules: Sequence[Rule]) -> tuple[Side, dict[int, Rule]]:
        self._runs += 1
        wanted = {op.index for rule in rules for op in rule.pool}
        draws = self._draws if self._taped else None
        wanted |= {op.index for op in draws.official} if draws is not None else set()
        self._values |= values_of(self._failed, self._reference, wanted - set(self._values))
        tape = Tape(draws, self._values) if draws is not None else None
        forcer = Forcer(rules, self._theirs, self._values, tape)
        return watched(self._failed, self._failed.subject, forcer), forcer.forced

    def _better(self, side: Side, forced: Collection[int]) -> bool:
        """Whether what follows leads back to official's numbers: more operations do than leave them."""
        if not differing(side, self._theirs, self._failed.names, self._first):
            return True
        before, after = unknown(self._side, self._theirs), unknown(side, self._theirs)
        put = {item.vector() for i in forced for item in side.operations[i].outputs}
        gained = 0
        for old, new, op, was in zip(before, after, side.operations, self._side.operations, strict=False):
            moved = old != new and op.name == was.name and op.index not in forced
            # A view of what was put in is no result of its own.
            if moved and not all(item.vector() in put for item in op.outputs):
                gained += 1 if old else -1
        return gained > 0

    def _candidates(self, first: Operation, official: Sequence[Operation]) -> Iterator[Rule]:
        """Yield what may stand in the place of `first` if official's, likeliest first."""
        lacking = [
            op for op, lacks in zip(self._theirs.operations, unknown(self._theirs, self._side), strict=True) if lacks
        ]
        tried: set[int] = set()
        alike = [op for op in lacking if op.name == first.name and _stands_for(first, op)]
        others = [op for op in official if op.name != first.name and _stands_for(first, op)]
        for pool in (alike, others):
            if pool:
                best = max(pool, key=lambda op: (shared(first, op), -op.index))
                tried.add(best.index)
                yield self._rule(first, best)
        if is_draw(first):
            return
        if any(item.numel == first.outputs[0].numel and self._theirs.contents.has(item) for item in first.inputs):
            yield Rule(first, frozenset(), ())
        for later in self._consequences(first):
            pool = [op for op in lacking if op.name == later.name and _stands_for(later, op) and op.index not in tried]
            if pool:
                best = max(pool, key=lambda op, later=later: (shared(later, op), -op.index))  # type: ignore[misc]
                yield Rule(later, frozenset(), self._pool(best), anyway=True)
                return

    def _rule(self, first: Operation, official: Operation) -> Rule:
        mine, theirs = set(first.scalars), set(official.scalars)
        other = frozenset(mine - theirs) if first.name == official.name else frozenset()
        pool = self._pool(official)
        if other:
            like = theirs - mine
            known = {op.index for op in pool}
            pool += tuple(
                op
                for op in self._theirs.operations
                if op.name == official.name and like <= set(op.scalars) and op.index not in known
            )
        return Rule(first, other, pool)

    def _pool(self, official: Operation) -> tuple[Operation, ...]:
        """Return the operations of its name on official's line, and those of the backward pass of that line."""
        return tuple(
            op
            for op in self._theirs.operations
            if op.index == official.index
            or (official.place and op.place == official.place and (op.name == official.name or op.backward))
        )

    def _consequences(self, first: Operation) -> Iterator[Operation]:
        """Yield the operations that read what comes of `first` and whose results official lacks."""
        reached = {(item.numel, item.vector()) for item in first.outputs}
        for op in self._side.operations[first.index + 1 :]:
            if any((item.numel, item.vector()) in reached for item in op.inputs):
                if all(self._theirs.contents.has(item) for item in op.outputs):
                    continue
                reached |= {(item.numel, item.vector()) for item in op.outputs}
                yield op


def _stands_for(mine: Operation, theirs: Operation) -> bool:
    """Whether official's operation may be what another should have been: of one shape, and with an input in common."""
    if mine.backward != theirs.backward or not fits(mine, theirs):
        return False
    if is_draw(mine):
        return is_draw(theirs) and mine.name == theirs.name
    return shared(mine, theirs) > 0


def _certain(first: Operation, rule: Rule) -> bool:
    """Whether the two are the same operation of the same contents: then the next may be a fault as well."""
    return any(
        op.name == first.name and 0 < len(first.inputs) == len(op.inputs) == shared(first, op) for op in rule.pool
    )


def _follows(op: Operation, step: Step) -> bool:
    """Whether an operation belongs to a known fault: on its line, or in the backward pass of its line."""
    first = step.yours[0]
    return op.place in {first.place, *step.places} and (op.name == first.name or op.backward)
