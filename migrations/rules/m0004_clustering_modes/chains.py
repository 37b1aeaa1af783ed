"""Chains of branches on a mode, each of which gives other tokens to a loss."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.glance import glance
from migrations.flow.nodes import attribute_chain, callee, find_all, literal, names_in

__all__ = ["PREFILTER", "Arm", "Chain", "chains", "may_matter", "turned_masks"]

PREFILTER = re.compile(rb"ones_like|logical_not|~\s*[A-Za-z_]|(?i:proto\w*|cluster\w*)_?(?i:loss)")
"""Masks that are inverted or made full, and losses named after prototypes or clusters."""


_PROTOTYPE_LOSS = re.compile(rb"(?i)(proto\w*|cluster\w*)_?loss")
_ANY_LOSS = re.compile(rb"(?i)loss|criterion")
_TURNS = {"logical_not", "ones_like", "bitwise_not"}


def may_matter(file: SourceFile) -> bool:
    """Whether a file names a prototype loss, or branches on a text where a mask is inverted or filled.

    Python's own parser is asked, which takes a tenth of LibCST's time: nearly every file with a model in it has a
    loss, a comparison and `ones_like` somewhere. What it does not take is for LibCST to judge.
    """
    if not file.matches(_ANY_LOSS):
        return False
    if file.matches(_PROTOTYPE_LOSS):
        return True
    if b"==" not in file.data:
        return False
    tree = glance(file)
    if tree is None:
        return True
    branches = (node for node in ast.walk(tree) if isinstance(node, ast.If) and _on_a_text(node.test))
    return any(_turns(node) for branch in branches for node in ast.walk(branch))


def _on_a_text(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and any(
        isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (test.left, *test.comparators)
    )


def _turns(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Invert)
    called = node.func if isinstance(node, ast.Call) else None
    return getattr(called, "attr", getattr(called, "id", "")) in _TURNS


@dataclass(frozen=True)
class Arm:
    """One branch.

    Attributes:
        value: the literal that the mode is compared with; None for `else`.
        body: its statements.
        node: the `if`, or the `else`.
    """

    value: str | None
    body: cst.BaseSuite
    node: cst.If | cst.Else


@dataclass(frozen=True)
class Chain:
    """A whole `if … elif … else` on one mode.

    Attributes:
        file, node: where it begins.
        mode: the expression that is compared, as written.
        mask: the mask that one arm takes as it is and another inverts or fills.
        masked: the arms that take it as it is.
        arms: all of them.
        series: whether they are `if`s below each other that return, not one `if … elif …`.
    """

    file: SourceFile
    node: cst.If
    mode: str
    mask: str
    masked: tuple[Arm, ...]
    arms: tuple[Arm, ...]
    series: bool = False

    def runs(self, arm: Arm, value: object) -> bool:
        """Whether an arm is the one that runs where the mode has a value."""
        if arm.value is not None:
            return value == arm.value
        return isinstance(value, str) and all(value != other.value for other in self.arms)

    @property
    def flag(self) -> str:
        """The last name of the mode: of `args.clustering_mode` the flag."""
        return self.mode.rpartition(".")[2]


def chains(file: SourceFile) -> list[Chain]:
    """Return the chains of a file whose arms select tokens for a loss by a mask, its inverse or all tokens."""
    found = []
    for node in file.nodes(cst.If):
        parent = file.parent(node)
        if isinstance(parent, cst.If) and parent.orelse is node:
            continue
        mode, arms = _arms(node)
        if len(arms) >= 2 and (chain := _selecting(file, node, mode, arms)):
            found.append(chain)
        elif len(arms) == 1 and (series := _series(file, node, mode, arms[0])):
            found.append(series)
    return found


def _series(file: SourceFile, node: cst.If, mode: str, first: Arm) -> Chain | None:
    """Return `if mode == "a": return ~m` and the same below it, in code about prototypes or clusters."""
    block = file.parent(node)
    if not isinstance(block, cst.IndentedBlock) or not re.search(rb"(?i)proto|cluster", file.data):
        return None
    place = next(i for i, statement in enumerate(block.body) if statement is node)
    if place and isinstance(before := block.body[place - 1], cst.If) and _arms(before)[0] == mode:
        return None  # part of the series that begins above
    arms = [first]
    for statement in block.body[place + 1 :]:
        other, further = _arms(statement) if isinstance(statement, cst.If) else ("", ())
        if other != mode or len(further) != 1:
            break
        arms += further
    returning = all(find_all(arm.body, cst.Return) for arm in arms)
    return _selecting(file, node, mode, tuple(arms), series=True) if len(arms) >= 2 and returning else None


def _arms(node: cst.If) -> tuple[str, tuple[Arm, ...]]:
    """Return the mode and the arms; nothing where a test is no comparison of one mode with a text."""
    mode, arms = "", []
    branch: cst.If | cst.Else | None = node
    while branch is not None:
        if isinstance(branch, cst.Else):
            arms.append(Arm(None, branch.body, branch))
            break
        what, value = _compared(branch.test)
        if not what or (mode and what != mode):
            return "", ()
        mode = what
        arms.append(Arm(value, branch.body, branch))
        branch = branch.orelse
    return mode, tuple(arms)


def _compared(test: cst.BaseExpression) -> tuple[str, str]:
    """Return `("args.mode", "masked")` of `args.mode == "masked"`, in either order."""
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return "", ""
    target = test.comparisons[0]
    if not isinstance(target.operator, cst.Equal):
        return "", ""
    for what, value in ((test.left, target.comparator), (target.comparator, test.left)):
        text = literal(value)
        if isinstance(text, str) and (chain := attribute_chain(what)):
            return chain, text
    return "", ""


def _selecting(
    file: SourceFile, node: cst.If, mode: str, arms: tuple[Arm, ...], *, series: bool = False
) -> Chain | None:
    """Return the chain where an arm inverts or fills a mask that another takes as it is, for a loss."""
    turned = [turned_masks(arm.body) for arm in arms]
    candidates = sorted(set().union(*turned))
    for mask in candidates:
        masked = [
            arm for arm, others in zip(arms, turned, strict=True) if mask not in others and mask in names_in(arm.body)
        ]
        # Every arm must choose among the same tokens, or stop: what else it does would be lost with it.
        choosing = all(mask in names_in(arm.body) or _only_stops(arm.body) for arm in arms)
        if choosing and (series or _serves_a_loss(file, node, arms)):
            return Chain(file, node, mode, mask, tuple(masked), arms, series)
    return None


def turned_masks(body: cst.CSTNode) -> set[str]:
    """Return the names that a body inverts (`~m`, `logical_not(m)`) or replaces by all tokens (`ones_like(m)`)."""
    found = {
        attribute_chain(operation.expression)
        for operation in find_all(body, cst.UnaryOperation)
        if isinstance(operation.operator, cst.BitInvert)
    }
    for call in find_all(body, cst.Call):
        if callee(call) in _TURNS:
            given = [call.args[0].value] if call.args else []
            method_of = [call.func.value] if isinstance(call.func, cst.Attribute) else []
            found |= {attribute_chain(node) for node in (*given, *method_of)}
    return {name for name in found if name and "." not in name} - {"torch", "np", "numpy"}


def _only_stops(body: cst.BaseSuite) -> bool:
    statements = [line for line in body.body if isinstance(line, cst.SimpleStatementLine)]
    return len(statements) == len(body.body) and all(isinstance(s, cst.Raise) for line in statements for s in line.body)


def _serves_a_loss(file: SourceFile, node: cst.If, arms: tuple[Arm, ...]) -> bool:
    """Whether an arm calls something named a loss, or the next statements give what the arms bind to one."""
    if any(_is_loss(call) for arm in arms for call in find_all(arm.body, cst.Call)):
        return True
    bound = {
        target.target.value
        for arm in arms
        for target in find_all(arm.body, cst.AssignTarget)
        if isinstance(target.target, cst.Name)
    }
    scope = file.function(node) or file.module
    end = file.span(node)[1]
    later = [c for c in find_all(scope, cst.Call) if file.span(c)[0] >= end and _is_loss(c)]
    return any(bound & names_in(arg.value) for call in later for arg in call.args)


def _is_loss(call: cst.Call) -> bool:
    text = callee(call).lower()
    if isinstance(call.func, cst.Subscript):
        text = " ".join(s.value for s in find_all(call.func, cst.SimpleString)) + " ".join(names_in(call.func))
    return "loss" in text.lower() or "criterion" in text.lower()
