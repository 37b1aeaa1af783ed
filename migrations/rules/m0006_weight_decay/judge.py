"""Counting: how many of the decayed groups that reach the optimizer follow the schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from migrations.engine.model import Site
from migrations.flow.groups import Frame, Group, Layout, Many, Unclear, shape
from migrations.flow.optimizers import Construction, Optimizers
from migrations.rules.m0006_weight_decay.outcome import Outcome, Undecided, outcome
from migrations.rules.m0006_weight_decay.reading import Reading
from migrations.rules.m0006_weight_decay.sites import Loop

__all__ = ["Count", "Groups", "count", "count_repeated", "groups_of", "undecided_text"]

_MOST_REPEATS = 40


@dataclass(frozen=True)
class Groups:
    """The groups that reach a loop.

    Attributes:
        layout: of the optimizer.
        made: where the optimizer is made; several where a configuration decides.
    """

    layout: Layout
    made: tuple[Construction, ...]

    @property
    def known(self) -> tuple[Group, ...] | None:
        """The groups in their order; None where some repeat, or whether one is spared is not known."""
        groups = tuple(item for item in self.layout if isinstance(item, Group))
        sure = len(groups) == len(self.layout) and all(group.spared is not None for group in groups)
        return groups if sure else None

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the optimizer and its groups are written."""
        found = [one.frame.file.site(one.call) for one in self.made]
        return tuple(dict.fromkeys([*found, *(group.file.site(group.node) for group in _all(self.layout))]))

    def initial(self, group: Group) -> object:
        """Return the weight decay that a group starts with; Ellipsis where it is not known."""
        if "weight_decay" in group.keys:
            value = group.keys["weight_decay"]
            return ... if value is None else value
        defaults = {repr(one.default): one.default for one in self.made}
        return next(iter(defaults.values())) if len(defaults) == 1 else ...


@dataclass(frozen=True)
class Count:
    """What a loop does to the groups, counted.

    Attributes:
        decayed, spared: numbers of the groups.
        follow: decayed groups that get the schedule.
        zeroed: decayed groups that are set to 0.
        caught: spared groups that get the schedule although their builder spares them.
    """

    decayed: tuple[int, ...]
    spared: tuple[int, ...]
    follow: tuple[int, ...]
    zeroed: tuple[int, ...]
    caught: tuple[int, ...]

    @property
    def aligned(self) -> bool:
        """Whether every decayed group follows the schedule, and no other."""
        return self.follow == self.decayed and not self.caught


def groups_of(optimizers: Optimizers, loop: Loop) -> Groups:
    """Return the groups that reach a loop.

    Raises:
        Unclear: the source does not tell.
    """
    frame = Frame(loop.file, loop.file.function(loop.node) or loop.file.module)
    made = optimizers.made(loop.optimizer, frame)
    unique = tuple({id(one.call): one for one in made}.values())
    layouts = [optimizers.layout(one) for one in unique]
    if any(shape(layout) != shape(layouts[0]) for layout in layouts):
        raise Unclear(loop.file, loop.node, f"{len(unique)} optimizers with different groups may reach this loop")
    return Groups(layouts[0], unique)


def count(loop: Loop, groups: tuple[Group, ...], owner: Groups) -> Count:
    """Carry a loop out for each group.

    Raises:
        Undecided: a condition's value is not known.
    """
    n = len(groups)
    reached = range(n)[loop.picked] if loop.picked is not None else range(n)
    results, over = [Outcome.KEPT] * n, False
    for place, position in enumerate(reached):
        if over:
            break
        # In a slice the loop counts from its first group.
        reading = Reading(loop, place, groups[position], n, owner.initial(groups[position]))
        results[position] = outcome(reading)
        over = reading.flow == "break"
    decayed = tuple(i for i in range(n) if not groups[i].spared)
    spared = tuple(i for i in range(n) if groups[i].spared)
    follows = (Outcome.SCHEDULE, Outcome.OWN)
    return Count(
        decayed,
        spared,
        tuple(i for i in decayed if results[i] in follows),
        tuple(i for i in decayed if results[i] is Outcome.ZERO),
        tuple(i for i in spared if results[i] is Outcome.SCHEDULE),
    )


def count_repeated(loop: Loop, owner: Groups) -> bool:
    """Return whether a loop is right however often the groups repeat.

    Raises:
        Undecided: that depends on how often, or on what is not known.
    """
    many = [item for item in owner.layout if isinstance(item, Many)]
    if len(many) != 1 or any(group.spared is None for group in _all(owner.layout)):
        raise Undecided(loop.node)
    for times in range(1, _MOST_REPEATS):
        groups = [group for item in owner.layout for group in _times(item, times)]
        if not count(loop, tuple(groups), owner).aligned:
            return False
    return True


def undecided_text(loop: Loop, error: Undecided) -> str:
    """Return which condition is not known, as text."""
    code = " ".join(loop.file.code(error.node).split())
    return code if len(code) <= 60 else code[:57] + "..."


def _times(item: Group | Many, times: int) -> list[Group]:
    return [item] if isinstance(item, Group) else [g for _ in range(times) for g in _all(item.items)]


def _all(layout: Layout) -> Iterator[Group]:
    for item in layout:
        yield from [item] if isinstance(item, Group) else _all(item.items)
