"""What a loop does to each group: carried out on what is known of the groups, without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import libcst as cst

from migrations.flow.nodes import find_all, literal
from migrations.rules.m0006_weight_decay.reading import Reading
from migrations.rules.m0006_weight_decay.sites import bare

__all__ = ["Outcome", "Undecided", "outcome"]


class Outcome(Enum):
    """What a group's weight decay is after the loop."""

    KEPT = "kept"
    SCHEDULE = "schedule"
    ZERO = "zero"
    OWN = "own"
    """The schedule times what the group itself carries."""


class Undecided(Exception):  # noqa: N818 - not an error: the answer "not known"
    """A condition whose value cannot be told.

    Attributes:
        node: the condition.
    """

    def __init__(self, node: cst.CSTNode) -> None:
        super().__init__()
        self.node = node


def outcome(reading: Reading) -> Outcome:
    """Return what a loop makes of a group's weight decay; `reading.flow` tells how the pass ended.

    Raises:
        Undecided: a condition's value is not known.
    """
    return _block(reading.loop.node.body.body, reading, Outcome.KEPT)


def _block(statements: Sequence[cst.CSTNode], reading: Reading, state: Outcome) -> Outcome:
    writes = {id(write.node): write.value for write in reading.loop.writes}
    for statement in statements:
        if isinstance(statement, cst.SimpleStatementLine | cst.SimpleStatementSuite):
            for small in statement.body:
                if id(small) in writes:
                    state = _written(writes[id(small)], reading)
                elif isinstance(small, cst.Assign) and isinstance(small.targets[0].target, cst.Name):
                    reading.names[small.targets[0].target.value] = small.value
                elif isinstance(small, cst.Continue | cst.Break):
                    reading.flow = "break" if isinstance(small, cst.Break) else "continue"
                    return state
        elif isinstance(statement, cst.If):
            state = _if(statement, reading, state)
            if reading.flow:
                return state
        elif isinstance(statement, cst.With | cst.Try):
            state = _block(statement.body.body, reading, state)
        elif any(id(node) in writes for node in (*find_all(statement, cst.Assign), *find_all(statement, cst.Expr))):
            raise Undecided(statement)
    return state


def _if(statement: cst.If, reading: Reading, state: Outcome) -> Outcome:
    touches = {id(write.node) for write in reading.loop.writes}
    nodes = [*find_all(statement, cst.Assign), *find_all(statement, cst.Expr)]
    leaves = bool(find_all(statement, cst.Continue) or find_all(statement, cst.Break))
    if not leaves and not any(id(node) in touches for node in nodes):
        return state
    if leaves and not any(id(node) in touches for node in nodes) and not reading.mentions(statement.test):
        return state
    truth = reading.truth(statement.test)
    if truth is None:
        raise Undecided(statement.test)
    if not reading.mentions(statement.test) and statement.orelse is not None:
        body = [*find_all(statement.body, cst.Assign), *find_all(statement.body, cst.Expr)]
        truth = any(id(node) in touches for node in body)
    if truth:
        body_of = statement.body
        return _block([body_of] if isinstance(body_of, cst.SimpleStatementSuite) else body_of.body, reading, state)
    if isinstance(statement.orelse, cst.If):
        return _if(statement.orelse, reading, state)
    if isinstance(statement.orelse, cst.Else):
        return _block(statement.orelse.body.body, reading, state)
    return state


def _written(value: cst.BaseExpression, reading: Reading) -> Outcome:
    if isinstance(value, cst.Name) and value.value in reading.names:
        value = reading.names[value.value]
    if isinstance(value, cst.IfExp):
        truth = reading.truth(value.test)
        if truth is None:
            raise Undecided(value.test)
        return _written(value.body if truth else value.orelse, reading)
    if literal(value) == 0:
        return Outcome.ZERO
    key = reading.own(value)
    if not key:
        return Outcome.SCHEDULE
    factor = reading.group.keys.get(key, ...) if reading.group is not None else ...
    if reading.group is not None and key not in reading.group.keys:
        return Outcome.SCHEDULE if ".get(" in bare(reading.loop.file, reading.loop.node) else Outcome.OWN
    return Outcome.ZERO if factor == 0 else Outcome.OWN if factor in (..., None) else Outcome.SCHEDULE
