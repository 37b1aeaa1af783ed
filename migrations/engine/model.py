"""What a migration says: where a difference is, in which state, and which edits would mend it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migrations.engine.project import Project

__all__ = ["ORDER", "Edit", "Example", "Finding", "Level", "Migration", "Site", "State", "overall"]

ORDER = ("0006", "0003", "0001", "0004", "0005", "0002", "0007")
"""Ids in the order in which they are applied: the document's numbers, sorted by what depends on what."""


class State(str, Enum):
    """How a project, or one site of it, stands to official code."""

    DIVERGED = "diverged"
    PARTIAL = "partial"
    UNKNOWN = "unknown"
    SUPPRESSED = "suppressed"
    ALIGNED = "aligned"
    NOT_APPLICABLE = "not-applicable"

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do: positive evidence of official's form, or a decision of the owner's."""
        return self in (State.SUPPRESSED, State.ALIGNED, State.NOT_APPLICABLE)


class Level(str, Enum):
    """What is proven of a rewrite, from the most to the least."""

    SAFE = "safe"
    """Proven right by what the source itself shows."""

    UNSAFE = "unsafe"
    """Right for the form that was recognised, on assumptions that the finding names; applied with --unsafe only."""

    SKELETON = "skeleton"
    """Leaves holes marked `# TODO[parity NNNN]` that a person fills; applied with --skeleton only."""

    MANUAL = "manual"
    """Nothing can be rewritten; the finding says what a person must do."""

    BLOCKED = "blocked"
    """Another site or migration must be dealt with first; the finding names it."""


@dataclass(frozen=True, order=True)
class Site:
    """A place in a file.

    Attributes:
        path: relative to the project, with forward slashes.
        line: counted from 1.
        column: counted from 1, in characters.
        end_line: last line of the construct.
    """

    path: str
    line: int
    column: int = 1
    end_line: int = 0

    def __str__(self) -> str:
        """Return `path:line`."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Edit:
    """Bytes of one file that are replaced.

    Attributes:
        path: of the file, as in `Site`.
        start: offset of the first byte that goes, in the UTF-8 text without a byte order mark.
        end: offset behind the last byte that goes; equal to `start` for an insertion.
        text: what comes in their place.
    """

    path: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Finding:
    """One site of one difference.

    Attributes:
        migration: id, `0001` to `0007`, or of an advisory.
        state: of this site. ALIGNED needs positive evidence of official's form; what is not found is UNKNOWN.
        evidence: what was counted or read, in words a fork's owner understands ("1 of 3 decayed groups gets the
            schedule"); one sentence without a full stop.
        site: where; None where the statement is about the whole project ("no mask generator found").
        level: of `edits`; MANUAL where there are none.
        edits: that mend this site; all of them or none are applied.
        person: what a person must decide or do, before or after the edits; empty for nothing.
        blocked_by: what must go first, each as `path:line why` or as a migration's id; with level BLOCKED.
        related: further sites that the evidence rests on.
    """

    migration: str
    state: State
    evidence: str
    site: Site | None = None
    level: Level = Level.MANUAL
    edits: tuple[Edit, ...] = ()
    person: str = ""
    blocked_by: tuple[str, ...] = ()
    related: tuple[Site, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError where level and edits contradict each other."""
        if bool(self.edits) != (self.level in (Level.SAFE, Level.UNSAFE, Level.SKELETON)):
            raise ValueError(
                f"finding {self.migration} at {self.site}: level {self.level.value} with {len(self.edits)} edits, "
                "expected edits at safe, unsafe and skeleton, and none at manual and blocked"
            )


@dataclass(frozen=True)
class Example:
    """A piece of code before and after, for `explain`."""

    before: str
    after: str


@dataclass(frozen=True)
class Migration:
    """One difference: how it is explained, found and mended.

    Attributes:
        id: `0001` to `0007`.
        title: a few words, without a full stop.
        official: file and lines of official code at b8931f7, relative to `dinov2/`.
        why: what the difference does to a training, two to five sentences.
        algebra: the formula, official's and the fork's, or the counts; plain text.
        example: the smallest honest before and after.
        person: what the rewrite leaves to a person.
        checks: ids of parity checks that verify it.
        depends_on: ids that are applied first.
        prefilter: a file whose bytes do not match is not parsed for this migration. It must be generous: what it
            rejects is never looked at.
        find: returns every site of a project, in any state, with the edits that would mend it. It must not write.
    """

    id: str
    title: str
    official: str
    why: str
    algebra: str
    example: Example
    person: str
    checks: tuple[str, ...]
    depends_on: tuple[str, ...]
    prefilter: re.Pattern[bytes]
    find: Callable[[Project], list[Finding]]


_WORST_FIRST = (
    State.DIVERGED,
    State.PARTIAL,
    State.UNKNOWN,
    State.SUPPRESSED,
    State.ALIGNED,
    State.NOT_APPLICABLE,
)


def overall(findings: Sequence[Finding]) -> State:
    """Return the state of a migration in a project.

    Diverged beside aligned sites is partial; an aligned site settles what others leave unknown only if none is unknown
    at a site: an unknown without a site ("nothing found") says nothing where something was found.
    """
    states = {finding.state for finding in findings if finding.site or finding.state is not State.UNKNOWN}
    if not states:
        return State.UNKNOWN
    if State.DIVERGED in states and State.ALIGNED in states:
        return State.PARTIAL
    return next(state for state in _WORST_FIRST if state in states)
