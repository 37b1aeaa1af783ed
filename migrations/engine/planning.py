"""Carrying out migrations on a project in memory, one after the other, each on what the earlier ones left.

Nothing here writes. What is proven is taken; what is not is listed with what it needs.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from migrations.engine.model import ORDER, Edit, Finding, Level, Migration, State
from migrations.engine.project import Project
from migrations.engine.registry import known_ids
from migrations.engine.suppress import suppressions
from migrations.engine.survey import Advance, Result, look

__all__ = ["NotTaken", "Plan", "Step", "in_order", "plan"]


@dataclass(frozen=True)
class NotTaken:
    """A finding that is left as it is, and why: `needs --unsafe`, `blocked by 0003`."""

    finding: Finding
    why: str


@dataclass(frozen=True)
class Step:
    """One migration's part of a plan.

    Attributes:
        before: what it found on what the earlier steps left.
        after: what it finds behind its own edits.
        taken: the findings whose edits are carried out.
        not_taken: the open findings that are left.
        start, end: the project before and after.
    """

    before: Result
    after: Result
    taken: tuple[Finding, ...]
    not_taken: tuple[NotTaken, ...]
    start: Project
    end: Project

    @property
    def migration(self) -> Migration:
        """The migration."""
        return self.before.migration


@dataclass(frozen=True)
class Plan:
    """What would be changed.

    Attributes:
        steps: in the order in which they are carried out.
        start, end: the project before and after all of them.
        first, final: what each migration finds at the start and at the end, by id.
    """

    steps: tuple[Step, ...]
    start: Project
    end: Project
    first: Mapping[str, Result]
    final: Mapping[str, Result]

    @property
    def changed(self) -> tuple[str, ...]:
        """The paths whose text changes."""
        return tuple(path for path, file in self.end.files.items() if file.text != self.start.files[path].text)


def in_order(migrations: Sequence[Migration]) -> list[Migration]:
    """Return migrations in the order in which they are applied; those that `ORDER` does not know come last."""
    return sorted(migrations, key=lambda one: ORDER.index(one.id) if one.id in ORDER else len(ORDER))


def plan(
    project: Project,
    migrations: Sequence[Migration],
    levels: Collection[Level],
    only: Collection[str] = (),
    advance: Advance = lambda what, done, total: None,
) -> Plan:
    """Return what would be changed.

    Args:
        project: as it is on the disk.
        migrations: all that exist; those not in `only` are looked at, since others may depend on them.
        levels: of the edits that may be taken.
        only: ids to carry out; all where it is empty.
        advance: is told how far the work has come.
    """
    start, steps = project, []
    states: dict[str, Result] = {}
    first: dict[str, Result] = {}
    ordered = in_order(migrations)
    for done, migration in enumerate(ordered):
        advance(f"{migration.id} {migration.title}", done, len(ordered))
        before = _look(migration, start)
        first[migration.id] = before if start is project else _look(migration, project)
        if only and migration.id not in only:
            states[migration.id] = before
            continue
        step = _step(before, start, levels, _blockers(migration, states))
        states[migration.id], start = step.after, step.end
        steps.append(step)
    final = first if start is project else {one.id: _look(one, start) for one in ordered}
    return Plan(tuple(steps), project, start, first, final)


def _look(migration: Migration, project: Project) -> Result:
    by, _ = suppressions(project, [*known_ids(), migration.id])
    return look(migration, project, by)


def _blockers(migration: Migration, states: dict[str, Result]) -> list[str]:
    """Return the ids that must go first and still have diverged sites; holes left for a person do not count."""
    found = []
    for id_ in migration.depends_on:
        result = states.get(id_)
        if result is not None and any(finding.state is State.DIVERGED for finding in result.open):
            found.append(id_)
    return found


def _step(before: Result, start: Project, levels: Collection[Level], blockers: list[str]) -> Step:
    taken: list[Finding] = []
    left: list[NotTaken] = []
    edits: list[Edit] = []
    for finding in before.open:
        why = _why_not(finding, levels, blockers) or _overlap(finding, edits)
        if why:
            left.append(NotTaken(finding, why))
        else:
            taken.append(finding)
            edits += [edit for edit in finding.edits if edit not in edits]
    if not taken:
        return Step(before, before, (), tuple(left), start, start)
    try:
        end = start.with_edits(edits)
        _check_compiles(start, end)
        after = _look(before.migration, end)
        doubt = _doubt(before, after, taken, levels, left)
    except ValueError as error:  # OverlapError is one
        after, doubt = before, f"its edits do not fit: {error}"
    if doubt:
        left += [NotTaken(finding, f"not carried out, {doubt}; please report it") for finding in taken]
        return Step(before, before, (), tuple(left), start, start)
    return Step(before, after, tuple(taken), tuple(left), start, end)


def _why_not(finding: Finding, levels: Collection[Level], blockers: list[str]) -> str:
    if finding.level is Level.BLOCKED:
        return f"blocked by {', '.join(dict.fromkeys(finding.blocked_by)) or 'another site'}"
    if not finding.edits:
        return "by hand" if finding.site else "nothing was found to change"
    if blockers:
        return f"blocked by {', '.join(blockers)}, which must go first"
    return "" if finding.level in levels else f"needs --{finding.level.value}"


def _overlap(finding: Finding, edits: list[Edit]) -> str:
    for mine in finding.edits:
        for other in edits:
            same = (mine.start, mine.end) == (other.start, other.end)
            crossing = mine.start < other.end and other.start < mine.end
            if mine.path == other.path and mine != other and (same or crossing):
                return "touches the same code as an earlier change, apply again afterwards"
    return ""


def _doubt(before: Result, after: Result, taken: list[Finding], levels: Collection[Level], left: list[NotTaken]) -> str:
    """Return why the edits cannot be believed: the migration looks at their result and is not content."""
    if after.failure:
        return f"the result could not be looked at again ({after.failure})"
    waiting = sum(one.finding.level in levels for one in left)
    if len(after.offers(*levels)) > waiting:
        again = next(iter(after.offers(*levels)))
        return f"the result would be changed once more at {again.site}"
    diverged = [finding for finding in after.open if finding.state is State.DIVERGED]
    were = sum(finding.state is State.DIVERGED for finding in before.open)
    if len(diverged) > were - sum(finding.state is State.DIVERGED for finding in taken):
        return f"the result still diverges at {diverged[0].site}"
    return ""


def _check_compiles(start: Project, end: Project) -> None:
    """Raise ValueError where a text that this Python accepted is one that it does not accept any more."""
    for path, file in end.files.items():
        old = start.files[path]
        if old is not file and not _syntax_error(old.text) and (error := _syntax_error(file.text)):
            raise ValueError(f"{path} would not compile: {error}")


def _syntax_error(text: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "<text>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return ""
