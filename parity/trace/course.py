"""Which faults a computation has, one after the other: each is found with official's values put in at those before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from parity.judge import Failed
from parity.trace.candidates import candidates, certain, consequences
from parity.trace.record import Operation
from parity.trace.replay import Forcer, Rule
from parity.trace.tape import Draws, Tape, kind, relevant
from parity.trace.watch import Side, begins, differing, unknown, values_of, watched

__all__ = ["MOST_FAULTS", "Course", "Step", "follow"]

MOST_FAULTS = 5
"""How many faults are told."""

_MOST_RUNS = 12
"""How often the subject is run again."""

AGREES, PARTLY, STOPPED, NO_VALUE, NO_RETURN, BOUND = "agrees", "partly", "stopped", "no value", "no return", "bound"


@dataclass
class Step:
    """One fault.

    Attributes:
        yours: where the subject's results begin to differ, the fault first.
        official: where the reference's do.
        rule: how official's value was put in there; None where it was not, or did not help.
        places: lines on which it was, in order.
        spent: whether what still differs because of it cannot be put right, as the backward pass of what official does
            by other operations.
    """

    yours: list[Operation]
    official: list[Operation]
    rule: Rule | None = None
    places: list[str] = field(default_factory=list)
    spent: bool = False

    @property
    def misled(self) -> bool:
        """Whether official does the same operation with the same arguments: then it was given another tensor.

        Gradients then go to that tensor, and no value put in sends them where official's go.
        """
        first, pool = self.yours[0], self.rule.pool if self.rule is not None else ()
        return any((op.name, op.scalars, op.backward) == (first.name, first.scalars, first.backward) for op in pool)


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
        if self._draws is not None and not self._taped:
            faults = 0  # what follows from draws of another kind cannot be compared
        while not end:
            if self._side is not self._first:
                names = differing(self._side, self._theirs, self._failed.names, self._first)
            if not names:
                end = AGREES
                break
            official = begins(self._theirs, self._side, names)
            yours = begins(self._side, self._theirs, names)
            yours = [op for op in yours if not any(_follows([op], official, step) for step in steps if step.spent)]
            known = next((step for step in steps if _follows(yours, official, step)), None)
            if not yours and steps:
                end = PARTLY
                break
            if known is None and (yours or official):
                if len(steps) == max(faults, 1):
                    end = BOUND if faults else STOPPED
                    break
                steps.append(Step(yours, official))
            if not yours or not faults:
                end = STOPPED
                break
            end = self._force(steps[-1] if known is None else known, yours[0], official)
            if known is not None and end in (NO_RETURN, NO_VALUE):
                known.spent, end = True, ""
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
            self._taped = self._agrees(side) or self._better(side, (), None)
            self._side = side if self._taped else self._side
        if not self._taped and not any(draws.unmatched()):
            self._draws = None

    def _force(self, step: Step, first: Operation, official: Sequence[Operation]) -> str:
        """Put official's value in at an operation; return why that cannot go on, or nothing."""
        end = NO_VALUE
        for rule in candidates(first, official, self._side, self._theirs):
            if self._runs >= _MOST_RUNS:
                return BOUND
            side, forced = self._run([*self._rules, rule])
            end = NO_RETURN
            if rule not in forced.values():
                continue
            # That something is left out would seem to help in many places: it is believed where it explains all.
            if self._agrees(side) or (rule.pool and (self._better(side, forced, rule.op) or certain(first, rule))):
                self._rules.append(rule)
                self._side = side
                step.rule = step.rule or rule
                lines = [side.operations[i].place for i, r in forced.items() if r is rule]
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

    def _agrees(self, side: Side) -> bool:
        return not differing(side, self._theirs, self._failed.names, self._first)

    def _better(self, side: Side, forced: Collection[int], after: Operation | None) -> bool:
        """Whether what follows an operation leads back to official's numbers, and no less does elsewhere.

        Args:
            side: with a value put in.
            forced: indices of the operations whose results were put in.
            after: the operation; None to count what follows from any.
        """
        old, new = unknown(self._side, self._theirs), unknown(side, self._theirs)
        following = (
            range(len(old)) if after is None else {op.index for op in consequences(after, self._side, self._theirs)}
        )
        put = {item.vector() for i in forced for item in side.operations[i].outputs}
        gained = lost = 0
        for i, (op, was) in enumerate(zip(side.operations, self._side.operations, strict=False)):
            if old[i] == new[i] or op.name != was.name or i in forced:
                continue
            # A view of what was put in is no result of its own.
            gained += old[i] and i in following and not all(item.vector() in put for item in op.outputs)
            # Gradients may go astray for good, where a tensor was taken for another.
            lost += new[i] and not (op.backward and after is not None and not after.backward)
        return gained > lost


def _follows(yours: Sequence[Operation], official: Sequence[Operation], step: Step) -> bool:
    """Whether a difference belongs to a fault in whose place official's value was put.

    It does on the fault's line: the same operation again, the backward pass of the line, or what was left out there and
    is done later. So it does where official still has what stands in the fault's place and the subject has nothing.
    """
    if step.rule is None:
        return False
    first = step.yours[0]
    if yours and yours[0].backward and not yours[0].place:  # autograd numbers what is written in place otherwise
        return True
    if yours and yours[0].place in {first.place, *step.places}:
        return yours[0].name == first.name or yours[0].backward or not step.rule.pool
    # What torch differentiates by itself differs for a reason in the forward pass; a `backward` may be wrong itself.
    if yours and yours[0].backward and step.misled and not yours[0].place.endswith(" in backward"):
        return True
    lacking = bool(official) and (not yours or (yours[0].backward and not official[0].backward))
    return lacking and official[0].place in {op.place for op in (*step.official, *step.rule.pool) if op.place}
