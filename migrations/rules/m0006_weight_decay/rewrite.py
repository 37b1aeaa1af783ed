"""The edits that make every decayed group follow the schedule, and what is proven of them."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from migrations.engine.edits import insert_before, replace
from migrations.engine.model import Edit, Level
from migrations.flow.bindings import resolve
from migrations.flow.nodes import callee, find_all, literal
from migrations.rules.m0006_weight_decay.judge import Count, Groups
from migrations.rules.m0006_weight_decay.reading import Reading
from migrations.rules.m0006_weight_decay.sites import Loop, Write

__all__ = ["Rewrite", "left_early", "rewrite"]

_ATOMS = (cst.Name, cst.Attribute, cst.Subscript, cst.Call, cst.Float, cst.Integer)
_OLD_ZERO = (
    "do not resume from a checkpoint that was saved before this change while the schedule stood at exactly 0: in it a "
    "decayed group looks like a spared one"
)
_ADDED = "a group that is added to the optimizer later needs a `wd_multiplier` of its own"
_OLD_CAUGHT = (
    "checkpoints from before this change hold a decay for groups that should have none: when one is resumed, set the "
    "`wd_multiplier` of its spared groups to 0 by hand"
)
_NOT_ZERO = "the rewrite assumes that the decayed groups do not start at 0, which the source does not show"


@dataclass(frozen=True)
class Rewrite:
    """Edits with their level and what a person should know."""

    edits: tuple[Edit, ...]
    level: Level
    person: str


def rewrite(loop: Loop, groups: Groups, count: Count) -> Rewrite | str:
    """Return the edits that mend a loop, or why there are none."""
    plain = groups.known
    if plain is None:
        return "the number of decayed groups is not proven"
    if len(loop.writes) != 1 or loop.picked is not None:
        return "the loop sets weight decay in more than one place, or runs over some groups only"
    if left_early(loop):
        return "the loop is left early"
    mark, level, person = _mark(loop, groups, count)
    edits = _edits(loop, loop.writes[0], mark)
    if isinstance(edits, str):
        return edits
    ends = [loop.file.line_span(loop.file.line_at(edit.start))[1] for edit in edits]
    if any(b"#" in loop.file.data[edit.end : end] for edit, end in zip(edits, ends, strict=True)):
        person = "; ".join(
            filter(None, (person, "a comment beside the old condition is kept: see whether it still holds"))
        )
    return Rewrite(edits, level, person)


def left_early(loop: Loop) -> bool:
    """Whether `break` or `continue` ends some passes of a loop."""
    return bool(find_all(loop.node.body, cst.Break)) or bool(find_all(loop.node.body, cst.Continue))


def _mark(loop: Loop, groups: Groups, count: Count) -> tuple[str, Level, str]:
    """Return the line that remembers which groups are spared; empty where every group says so itself."""
    known = groups.known or ()
    if all("wd_multiplier" in group.keys for group in known):
        return "", Level.SAFE, ""
    starts = [groups.initial(known[i]) for i in count.decayed]
    started = all(isinstance(start, int | float) and start > 0 for start in starts)
    if started and not count.caught and not _may_be_zero(loop):
        return f'float({loop.group}["weight_decay"] != 0)', Level.SAFE, _OLD_ZERO
    if loop.index:
        numbers = [i + loop.start for i in count.decayed]
        which = f"== {numbers[0]}" if len(numbers) == 1 else f"in ({', '.join(map(str, numbers))})"
        return f"float({loop.index} {which})", Level.SAFE, _ADDED
    person = _OLD_CAUGHT if count.caught else _NOT_ZERO if not started else _OLD_ZERO
    return f'float({loop.group}["weight_decay"] != 0)', Level.UNSAFE, person


def _may_be_zero(loop: Loop) -> bool:
    """Whether a literal 0 is among the ends that the schedule was given."""
    for name in find_all(loop.writes[0].value, cst.Name):
        for binding in resolve(loop.file, name):
            if isinstance(binding.value, cst.Call) and callee(binding.value):
                ends = [arg.value for arg in binding.value.args[:2] if arg.keyword is None]
                ends += [arg.value for arg in binding.value.args if arg.keyword and "value" in arg.keyword.value]
                if any(literal(end) == 0 for end in ends):
                    return True
    return False


def _edits(loop: Loop, write: Write, mark: str) -> tuple[Edit, ...] | str:
    file, group = loop.file, loop.group
    line = file.parent(write.node)
    if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
        return (
            _one_line(loop, write, mark)
            if isinstance(line, cst.SimpleStatementSuite)
            else "several statements share a line"
        )
    reading = Reading.whole(loop)
    remember = f'{group}.setdefault("wd_multiplier", {mark})' if mark else ""
    product = replace(file, write.value, _product(loop, write))
    around = _around(loop, line)
    deciding = [one for one in around if reading.mentions(one.test)]
    if not deciding:
        first = (insert_before(file, line, remember),) if remember else ()
        return (*first, product)
    if len(deciding) > 1 or deciding[0] is not around[0]:
        return "more than one condition decides which groups get the schedule"
    test = deciding[0]
    alone = isinstance(test.body, cst.IndentedBlock) and len(test.body.body) == 1
    if test.orelse is not None or not alone or _is_elif(loop, test):
        return "the condition also decides about other statements"
    guards = [part for part in _conjuncts(test.test) if not reading.mentions(part)]
    if guards:
        kept = replace(file, test.test, " and ".join(file.code(part) for part in guards))
        return (kept, *((insert_before(file, line, remember),) if remember else ()), product)
    return (*_header(loop, test, line, remember), product)


def _header(loop: Loop, test: cst.If, line: cst.SimpleStatementLine, remember: str) -> tuple[Edit, ...]:
    """Put a statement in the place of `if …:` and take the block out of it; comments stay where they are."""
    file = loop.file
    begin, colon = file.span(test)[0], file.data.index(b":", file.span(test.test)[1])
    if not remember:
        remember = "# Each group says itself whether it is decayed."
    head = Edit(file.path, begin, colon + 1, remember)
    indent = file.data[file.line_span(file.line(test))[0] : begin].decode()
    edits = [head]
    number = file.line_at(colon) + 1
    while number <= file.line_at(file.span(line)[1] - 1):
        start, end = file.line_span(number)
        text = file.data[start:end].decode()
        inner = text[: len(text) - len(text.lstrip(" \t"))]
        deeper = file.data[file.line_span(file.line(line))[0] : file.span(line)[0]].decode()
        if inner.startswith(deeper):
            edits.append(Edit(file.path, start, start + len(deeper.encode()), indent))
        number += 1
    return tuple(edits)


def _one_line(loop: Loop, write: Write, mark: str) -> tuple[Edit, ...] | str:
    """Mend `if i == 0: group["weight_decay"] = wd`."""
    file, suite = loop.file, file_parent(loop, write.node)
    test = file.parent(suite)
    around = _around(loop, test) if isinstance(test, cst.If) else []
    if not isinstance(test, cst.If) or test.orelse is not None or len(suite.body) != 1 or _is_elif(loop, test):
        return "the condition also decides about other statements"
    if any(Reading(loop).mentions(one.test) for one in around) or len(_conjuncts(test.test)) > 1:
        return "more than one condition decides which groups get the schedule"
    product = replace(file, write.value, _product(loop, write))
    begin, end = file.span(test)[0], file.span(write.node)[0]
    if not mark:
        return (Edit(file.path, begin, end, ""), product)
    indent = file.data[file.line_span(file.line(test))[0] : begin].decode()
    remember = f'{loop.group}.setdefault("wd_multiplier", {mark}){file.newline}{indent}'
    return (Edit(file.path, begin, end, remember), product)


def file_parent(loop: Loop, node: cst.CSTNode) -> cst.SimpleStatementSuite:
    """Return the suite around a statement that stands behind a colon."""
    parent = loop.file.parent(node)
    assert isinstance(parent, cst.SimpleStatementSuite)
    return parent


def _product(loop: Loop, write: Write) -> str:
    code = loop.file.code(write.value)
    wrapped = code if isinstance(write.value, _ATOMS) or write.value.lpar else f"({code})"
    return f'{wrapped} * {loop.group}["wd_multiplier"]'


def _around(loop: Loop, line: cst.CSTNode) -> list[cst.If]:
    """Return the conditions between a statement and its loop, innermost first."""
    found = []
    for node in loop.file.ancestors(line):
        if node is loop.node:
            break
        if isinstance(node, cst.If):
            found.append(node)
    return found


def _is_elif(loop: Loop, test: cst.If) -> bool:
    return isinstance(loop.file.parent(test), cst.If)


def _conjuncts(test: cst.BaseExpression) -> list[cst.BaseExpression]:
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        return [*_conjuncts(test.left), *_conjuncts(test.right)]
    return [test]
