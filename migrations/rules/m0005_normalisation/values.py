"""What an expression holds, as far as the normalisation of a loss over masked tokens goes.

Shapes: R rows (2B global crops), N tokens per row, M masked tokens in all rows, M_i in row i, K prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

__all__ = ["UNKNOWN", "Kind", "Value", "Weight", "join"]


class Kind(Enum):
    """Of a value; what it does not list is OTHER."""

    OTHER = auto()
    TUPLE = auto()
    MASK = auto()
    """Boolean over tokens, (R, N)."""
    TOKEN_INDEX = auto()
    """Places of the masked tokens, (M,)."""
    ROW_INDEX = auto()
    """Row of each masked token, (M,)."""
    ROW_COUNT = auto()
    """M_i, (R,)."""
    ROW_WEIGHT = auto()
    """1 / M_i, (R,) or spread over (R, N)."""
    TOKEN_WEIGHT = auto()
    """1 / M_i of each masked token's row, (M,)."""
    N_TOKENS = auto()
    """M."""
    N_ROWS = auto()
    """R."""
    PROBABILITY = auto()
    """Softmax over the prototypes."""
    LOG_PROBABILITY = auto()
    """Log-softmax over the prototypes."""
    PRODUCT = auto()
    """Target times log-probability, before the sum over the prototypes."""
    TOKEN_LOSS = auto()
    """Cross-entropy of each token."""
    ROW_SUM = auto()
    """Sum over a row's masked tokens, (R,)."""
    ROW_MEAN = auto()
    """Mean over a row's masked tokens, (R,)."""
    TOTAL = auto()
    """Sum over all masked tokens, a number."""
    REDUCED = auto()
    """A total or a mean that has been divided, a number."""


class Weight(Enum):
    """By what the losses of single tokens have been multiplied."""

    NONE = auto()
    PER_ROW = auto()
    """1 / M_i."""
    UNSEEN = auto()
    """A factor whose values the text does not show."""


@dataclass(frozen=True)
class Value:
    """A value.

    Attributes:
        kind: what it is.
        mask: text of the mask that selected it or that it is made from; empty where none did.
        selected: whether it holds the M masked tokens alone, as opposed to all R * N of them.
        weight: for losses.
        divisor: for REDUCED: N_TOKENS, N_ROWS, or OTHER.
        exact: for ROW_COUNT and ROW_MEAN: whether an empty row is kept from dividing by zero.
        slices: names that bound a slice, `n` of `x[:n]`; dividing by one of them divides by the number of tokens.
        items: of a TUPLE.
        text: how it is written, for what is not known.
    """

    kind: Kind = Kind.OTHER
    mask: str = ""
    selected: bool = False
    weight: Weight = Weight.NONE
    divisor: Kind = Kind.OTHER
    exact: bool = False
    slices: frozenset[str] = frozenset()
    items: tuple[Value, ...] = ()
    text: str = ""

    def but(self, **changes: object) -> Value:
        """Return a copy with changes."""
        return replace(self, **changes)  # type: ignore[arg-type] # checked by the dataclass's callers


UNKNOWN = Value()


def join(values: list[Value]) -> Value:
    """Return what several assignments of one name agree on; those of which nothing is known do not vote."""
    known = [value for value in values if (value.kind, value.mask, value.selected) != (Kind.OTHER, "", False)]
    if not known:
        return values[0] if len(values) == 1 else UNKNOWN
    first = known[0]
    if any((value.kind, value.selected) != (first.kind, first.selected) for value in known):
        return UNKNOWN
    weights = {value.weight for value in known}
    return first.but(
        mask=first.mask if len({value.mask for value in known}) == 1 else "",
        weight=first.weight if len(weights) == 1 else Weight.UNSEEN,
        slices=frozenset().union(*(value.slices for value in known)),
    )
