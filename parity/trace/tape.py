"""The reference's random draws, replayed to a subject that may draw otherwise.

Two stacks may compute the same function of other random numbers: subsets of drop path drawn in another order, or by
another operation. Given official's draws, each to the next draw of its kind, the rest can be compared. A replay only
attributes: what was judged to differ without it still differs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.trace.record import Operation

__all__ = ["Draws", "Kind", "Tape", "drawn", "is_draw", "kind", "relevant"]

_NAMES = frozenset(
    {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "uniform", "random"}
    | {"exponential", "geometric", "cauchy", "log_normal", "poisson", "binomial"}
)
_LIKE = {"uniform": ("rand", {"from", "to"}), "normal": ("randn", {"mean", "std"})}
"""What draws in place as another operation does, unless one of these arguments says otherwise."""

_FORM = frozenset({"size", "dtype", "layout", "device", "pin_memory", "memory_format"})

Kind = tuple[str, tuple[tuple[str, str], ...], tuple[int, ...], torch.dtype]
"""Operation, its scalars, shape and dtype: draws of one kind are drawn from one distribution."""


def _name(op: Operation) -> str:
    return op.name.removesuffix("_").removesuffix("_like")


def is_draw(op: Operation) -> bool:
    """Whether an operation draws random numbers, and does nothing else."""
    return _name(op) in _NAMES and len(op.forms) == 1


def kind(op: Operation) -> Kind:
    """Return the kind of a draw."""
    name, scalars = _name(op), tuple(item for item in op.scalars if item[0] not in _FORM)
    if name in _LIKE and not _LIKE[name][1] & {key for key, _ in scalars}:
        name = _LIKE[name][0]
    return name, scalars, *op.forms[0]


@dataclass(frozen=True)
class Draws:
    """The draws of both sides that lead to where they begin to differ, in order.

    Attributes:
        yours: of the subject.
        official: of the reference.
    """

    yours: tuple[Operation, ...]
    official: tuple[Operation, ...]

    def first_other(self) -> tuple[int, Operation | None, Operation | None] | None:
        """Return the number, from 1, of the first draw that is not official's, and both; None where all are."""
        for i in range(max(len(self.yours), len(self.official))):
            mine = self.yours[i] if i < len(self.yours) else None
            theirs = self.official[i] if i < len(self.official) else None
            same = mine is not None and theirs is not None and kind(mine) == kind(theirs)
            if not same or (mine and theirs and mine.outputs[0].arranged() != theirs.outputs[0].arranged()):
                return i + 1, mine, theirs
        return None

    def unmatched(self) -> tuple[list[Operation], list[Operation]]:
        """Return the draws of yours and of official's whose kind the other side has no more of."""
        return _surplus(self.yours, self.official), _surplus(self.official, self.yours)


def _surplus(draws: Sequence[Operation], others: Sequence[Operation]) -> list[Operation]:
    left = Counter(kind(op) for op in others)
    found = []
    for op in draws:
        if left[kind(op)]:
            left[kind(op)] -= 1
        else:
            found.append(op)
    return found


def relevant(
    mine: Sequence[Operation], theirs: Sequence[Operation], yours: Sequence[Operation], official: Sequence[Operation]
) -> Draws | None:
    """Return the draws on the lines at which the sides begin to differ; None where they begin at no draw.

    Others, such as those of initial weights that a state then replaces, lead to no difference.

    Args:
        mine: operations of the subject.
        theirs: of the reference.
        yours: where the subject's results begin to differ.
        official: where the reference's do.
    """
    lines = [{op.place for op in found if is_draw(op)} for found in (yours, official)]
    if not any(lines):
        return None
    sides = [[op for op in ops if is_draw(op)] for ops in (mine, theirs)]
    if not lines[1]:  # official's draws may be contents that the subject has too, in another order
        names = {_name(op) for op in sides[0] if op.place in lines[0]}
        lines[1] = {op.place for op in sides[1] if _name(op) in names}
    at = [tuple(op for op in ops if op.place in there) for ops, there in zip(sides, lines, strict=True)]
    return Draws(at[0], at[1])


class Tape:
    """Official's draws, given out by kind.

    Args:
        draws: of both sides.
        values: results of official's draws by index of the operation, see `values_of`.
    """

    def __init__(self, draws: Draws, values: Mapping[int, Sequence[Tensor]]) -> None:
        self._places = {op.place for op in draws.yours}
        self._left: dict[Kind, deque[Tensor]] = {}
        for op in draws.official:
            self._left.setdefault(kind(op), deque()).append(values[op.index][0])

    def next(self, op: Operation) -> Tensor | None:
        """Return official's next draw of this kind for a draw of the subject; None where there is none."""
        if not is_draw(op) or op.place not in self._places:
            return None
        left = self._left.get(kind(op))
        return left.popleft() if left else None


def drawn(draws: Iterable[Operation]) -> str:
    """Return draws in words: each kind once, with how often it was drawn."""
    counted = Counter((_call(op), op.forms[0][0]) for op in draws)
    return ", ".join(
        f"{name}, shape {tuple(shape)}{f', {count} times' if count > 1 else ''}"
        for (name, shape), count in counted.items()
    )


def _call(op: Operation) -> str:
    return f"{op.name}({', '.join(f'{key}={value}' for key, value in op.scalars if key not in _FORM)})"
