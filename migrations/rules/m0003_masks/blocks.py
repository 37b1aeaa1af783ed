"""Generators that mask rectangles, and whether they keep to the number of patches that they are asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import libcst as cst

from migrations.engine.model import State
from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.nodes import callee, find_all

__all__ = ["Generator", "generators", "judge"]


@dataclass(frozen=True)
class Generator:
    """A generator of block masks.

    Attributes:
        loop: tries rectangles.
        function: around the loop.
        owner: the class around the function, if there is one.
    """

    file: SourceFile
    loop: cst.For
    function: cst.FunctionDef
    owner: cst.ClassDef | None


def generators(file: SourceFile) -> list[Generator]:
    """Return the loops that try rectangles of a random area and aspect and fill them into a mask."""
    found = []
    for loop in file.nodes(cst.For):
        function = file.function(loop)
        ranged = isinstance(loop.iter, cst.Call) and callee(loop.iter) == "range"
        if function is None or not ranged or not _draws_rectangle(loop) or not _fill(file, loop):
            continue
        if any(inner is not loop and _draws_rectangle(inner) for inner in find_all(loop.body, cst.For)):
            continue
        one = Generator(file, loop, function, None)
        if not _adds_up(loop) and not _stops_after_success(one):
            continue
        classes = [node for node in file.ancestors(loop) if isinstance(node, cst.ClassDef)]
        found.append(replace(one, owner=classes[0] if classes else None))
    return found


def judge(one: Generator) -> tuple[State, str]:
    """Return how a generator stands to official's, and the sentence that says so."""
    whole = one.owner if one.owner is not None else one.function
    tries = one.file.code(one.loop.iter)
    if not _stops_after_success(one):
        lowers = [a for a in find_all(one.loop, cst.AugAssign) if isinstance(a.operator, cst.SubtractAssign)]
        if lowers or not _adds_up(one.loop):
            return State.UNKNOWN, f"whether `for … in {tries}` keeps to its budget of patches is not seen"
        return State.DIVERGED, (
            f"`for … in {tries}` goes on after a rectangle has added patches, against a budget that it never lowers, "
            "so masks overshoot their target; official stops after the first that adds any"
        )
    if any(callee(c) == "choice" for c in find_all(whole, cst.Call)) and re.search(
        r"replace\s*=\s*False", one.file.code(whole)
    ):
        return (
            State.PARTIAL,
            "block masks that keep to their target, filled up with single patches, which official is not",
        )
    if not _is_capped(one.file, whole):
        return State.PARTIAL, (
            "block masks that keep to their target, but nothing caps one block; official's adds at most half the grid"
        )
    return State.ALIGNED, "blocks stop after the first rectangle that adds patches, and are capped, as official's"


def _draws_rectangle(loop: cst.For) -> bool:
    return sum(callee(call) == "sqrt" for call in find_all(loop, cst.Call)) >= 2


def _fill(file: SourceFile, loop: cst.For) -> list[cst.Assign]:
    """Return the assignments that set elements of an array to true."""
    found = []
    for assign in find_all(loop, cst.Assign):
        target = assign.targets[0].target
        if isinstance(target, cst.Subscript) and file.code(assign.value) in ("1", "True", "1.0"):
            found.append(assign)
    return found


def _adds_up(loop: cst.For) -> bool:
    return any(isinstance(a.operator, cst.AddAssign) for a in find_all(loop, cst.AugAssign))


def _stops_after_success(one: Generator) -> bool:
    """Whether the loop ends once a rectangle has added something, whatever the budget says."""
    inner = {id(n) for f in find_all(one.loop.body, cst.For) for n in find_all(f, cst.Break)}
    fills = _fill(one.file, one.loop)
    for node in [*find_all(one.loop, cst.Break), *find_all(one.loop, cst.Return)]:
        if id(node) in inner:
            continue
        line = one.file.statement(node)
        block = one.file.parent(line) if line is not None else None
        if any(_below(one.file, fill, block) for fill in fills):
            return True
        guard = one.file.parent(block) if block is not None else None
        if isinstance(guard, cst.If) and _asks_for_success(one.file, guard.test):
            return True
    return False


def _below(file: SourceFile, fill: cst.Assign, block: cst.CSTNode | None) -> bool:
    """Whether a block of code holds a fill: then a break in the same block follows upon it."""
    return any(around is block for around in file.ancestors(fill))


def _asks_for_success(file: SourceFile, test: cst.BaseExpression) -> bool:
    return re.fullmatch(r"\(?[\w.]+( (>|!=) 0| >= 1)?\)?", file.code(test)) is not None


def _is_capped(file: SourceFile, whole: cst.CSTNode) -> bool:
    """Whether the budget of one block is the smaller of what is left and of something else."""
    for call in find_all(whole, cst.Call):
        if callee(call) == "min" and len(call.args) == 2 and any(_is_rest(file, arg.value) for arg in call.args):
            return True
    return False


def _is_rest(file: SourceFile, node: cst.BaseExpression) -> bool:
    """Whether an expression is what is left of a target: a difference, or a name that holds one."""
    if isinstance(node, cst.Name):
        return any(
            b.value is not None and not isinstance(b.value, cst.Name) and _is_rest(file, b.value)
            for b in resolve(file, node)
        )
    return isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Subtract)
