"""A subject run again with official's values put in the place of results that differ: teacher forcing.

What follows a fault differs because of it. With official's value there it agrees again, up to the next fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from parity.trace.fingerprint import CLOSE, Fingerprint
from parity.trace.record import UNWRITTEN, Operation, Recorder
from parity.trace.tape import Tape
from parity.trace.watch import Side

__all__ = ["Forcer", "Rule", "fits", "shared"]


@dataclass(frozen=True)
class Rule:
    """What is put in the place of one operation's results wherever it has official's inputs and other results.

    Attributes:
        op: the operation of the subject; others on its line and of its name, or of the backward pass of its line,
            are meant too.
        scalars: arguments of it that are not official's: with them, an operation of its name is meant on any line.
        pool: official operations, one of whose results is put in: that with the most inputs in common, then the
            earliest whose results the subject has not. Empty to put in what the operation itself reads, as if it were
            not there.
        anyway: whether its inputs need not be official's.
    """

    op: Operation
    scalars: frozenset[tuple[str, str]]
    pool: tuple[Operation, ...]
    anyway: bool = False

    def means(self, op: Operation) -> bool:
        """Whether an operation of the subject is meant."""
        if self.scalars and op.name == self.op.name and self.scalars <= set(op.scalars):
            return True
        return op.place == self.op.place and (op.name == self.op.name or op.backward)


class Forcer(Recorder):
    """A recorder that puts official's values in.

    Args:
        rules: where, and from where.
        theirs: the reference's side.
        values: results of the operations in the rules' pools, see `values_of`.
        tape: official's draws, where the subject's are others.

    Attributes:
        forced: for each operation whose results were replaced, by index, the rule that said so.
    """

    def __init__(
        self, rules: Sequence[Rule], theirs: Side, values: Mapping[int, Sequence[Tensor]], tape: Tape | None = None
    ) -> None:
        super().__init__()
        self.forced: dict[int, Rule] = {}
        self._rules, self._theirs, self._values, self._tape = rules, theirs, values, tape
        self._taken: set[int] = set()
        self._unwritten: set[str] = set()

    def altered(self, done: Operation, read: Sequence[Tensor], made: Sequence[Tensor]) -> Sequence[Tensor] | None:
        """Return official's values for an operation that a rule means, its draw for one of the tape's, else None."""
        if done.name in UNWRITTEN:
            self._unwritten |= {repr(item) for item in done.outputs}  # as text, in which NaN is NaN
            return None
        draw = self._tape.next(done) if self._tape is not None else None
        if draw is not None:
            return [draw]
        has = self._theirs.contents.has
        # What a wrong choice of rows gives back to them has official's numbers, at other rows.
        known = self._theirs.arranged.has if done.backward else has
        for rule in self._rules:
            if not rule.means(done) or all(known(item) for item in done.outputs):
                continue
            if not rule.anyway and not all(has(item) or repr(item) in self._unwritten for item in done.inputs):
                continue
            put = self._from_pool(rule, done, made) if rule.pool else _from_input(done, read, made)
            if put is not None:
                self.forced[done.index] = rule
                return put
        return None

    def _from_pool(self, rule: Rule, done: Operation, made: Sequence[Tensor]) -> Sequence[Tensor] | None:
        fitting = [op for op in rule.pool if op.backward == done.backward and fits(done, op)]
        if not fitting:
            return None

        def rank(op: Operation) -> tuple[float, bool, bool, bool, int]:
            new = op.index not in self._taken
            return shared(done, op), op.name == done.name, new and not self._has_made(op), new, -op.index

        best = max(fitting, key=rank)
        if best.name != done.name and all(self._theirs.contents.has(item) for item in done.outputs):
            return None
        if done.inputs and not rule.anyway and best.name != done.name and not shared(done, best):
            return None
        self._taken.add(best.index)
        pairs = zip(self._values[best.index], made, strict=False)
        return [value.reshape(tensor.shape) for value, tensor in pairs]

    def _has_made(self, official: Operation) -> bool:
        """Whether the subject has come to what an official operation gives: then another one's is wanted."""
        made = [item for op in self.operations for item in op.outputs]
        return all(any(_same(item, other) for other in made) for item in official.outputs)


def _from_input(done: Operation, read: Sequence[Tensor], made: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """Return the largest of what an operation reads that could be its result; None where it wrote over it."""
    if len(made) != 1:
        return None
    written = {id(t) for t in made}
    alike = [t for t in read if id(t) not in written and (t.shape, t.dtype) == (made[0].shape, made[0].dtype)]
    return [alike[0]] if len(alike) == 1 else None


def fits(mine: Operation, theirs: Operation) -> bool:
    """Whether the results of one operation can be put in the place of another's.

    They must be of one dtype, and of one shape but for axes of length 1; several results of operations of one name.
    """
    if not mine.forms or len(mine.forms) != len(theirs.forms) or (len(mine.forms) > 1 and mine.name != theirs.name):
        return False
    pairs = zip(mine.forms, theirs.forms, strict=True)
    return all(a[1] is b[1] and _long(a[0]) == _long(b[0]) for a, b in pairs)


def _long(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]


def shared(mine: Operation, theirs: Operation) -> float:
    """Return how many contents that one operation reads the other reads too; one that says little counts little."""
    return sum(_weight(a) for a in mine.inputs if any(_same(a, b) for b in theirs.inputs))


def _weight(item: Fingerprint) -> float:
    *_, smallest, largest = item.moments
    return 1.0 if smallest < largest else 0.01


def _same(left: Fingerprint, right: Fingerprint) -> bool:
    pairs = zip(left.vector(), right.vector(), strict=True)
    return left.numel == right.numel and all(a == b or abs(a - b) <= CLOSE * right.rms for a, b in pairs)
