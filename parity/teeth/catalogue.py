"""What a fault and a rewrite are, and all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parity.teeth.edit import Constant, Edit

__all__ = ["Fault", "Ladder", "Rewrite"]


@dataclass(frozen=True)
class Fault:
    """A training bug.

    Attributes:
        id: short and stable.
        about: what it does, in a few words.
        edits: that make it.
        checks: `family.name` or `family.name[recipe]`, made in this order until one diverges.
        cause: pattern of what must be told first: a finding's id and words, or without a finding the name of the first
            comparison that failed; empty for the edited function itself.
        origin: the project or thread where the bug was found; empty for one that was made up.
    """

    id: str
    about: str
    edits: tuple[Edit | Constant, ...]
    checks: tuple[str, ...]
    cause: str = ""
    origin: str = ""

    @property
    def expected(self) -> str:
        """The pattern that decides whether the fault is named."""
        return self.cause or self.edits[0].place


@dataclass(frozen=True)
class Rewrite:
    """The same computation in other operations, which must raise nothing.

    Attributes:
        id: short and stable.
        about: what is written otherwise.
        edits: that make it.
        checks: all of them are made, and must pass.
    """

    id: str
    about: str
    edits: tuple[Edit | Constant, ...]
    checks: tuple[str, ...]


@dataclass(frozen=True)
class Ladder:
    """One fault in several sizes.

    Attributes:
        id: short and stable.
        about: what is off, relative to its value.
        edits: given the relative size.
        check: that is made at each size.
    """

    id: str
    about: str
    edits: Callable[[float], tuple[Edit | Constant, ...]]
    check: str
