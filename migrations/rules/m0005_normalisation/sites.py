"""Where losses over masked tokens become numbers, and how that stands to official code."""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from migrations.engine.model import State
from migrations.engine.source import SourceFile
from migrations.flow.nodes import callee
from migrations.rules.m0005_normalisation.evaluate import Evaluator
from migrations.rules.m0005_normalisation.operations import imported, subject_of
from migrations.rules.m0005_normalisation.operators import combined
from migrations.rules.m0005_normalisation.values import Kind, Value, Weight

__all__ = ["Reduction", "judge", "reductions"]


_ABOUT_LOSS = re.compile(r"(?i)loss|log_?softmax|cross_?entropy|kl_div|\.log\(")
"""A function without any of these computes no cross-entropy, and divides none."""


@dataclass(frozen=True)
class Reduction:
    """A place where a loss over masked tokens is divided, or averaged.

    Attributes:
        node: the quotient, the call of `mean` or of a loss of torch's, or the augmented assignment.
        value: what it gives.
        inner: what is divided or averaged; None for a loss of torch's.
        divisor: expression; None where `mean` divides.
        function: around it.
    """

    file: SourceFile
    node: cst.BinaryOperation | cst.Call | cst.AugAssign
    value: Value
    inner: cst.BaseExpression | None
    divisor: cst.BaseExpression | None
    function: cst.FunctionDef


def reductions(run: Evaluator, file: SourceFile) -> list[Reduction]:
    """Return the reductions of a file, in the order of the text."""
    found: list[Reduction] = []
    for quotient in file.nodes(cst.BinaryOperation):
        if isinstance(quotient.operator, cst.Divide):
            found += _one(run, file, quotient, quotient.left, quotient.right)
    for assign in file.nodes(cst.AugAssign):
        if isinstance(assign.operator, cst.DivideAssign) and isinstance(assign.target, cst.Name):
            found += _one(run, file, assign, assign.target, assign.value)
    for call in file.nodes(cst.Call):
        if callee(call) == "mean":
            found += _one(run, file, call, subject_of(call, imported(file)), None)
        elif callee(call) in ("cross_entropy", "kl_div"):
            found += _one(run, file, call, None, None)
    return sorted(found, key=lambda one: file.span(one.node))


def _one(
    run: Evaluator,
    file: SourceFile,
    node: cst.BinaryOperation | cst.Call | cst.AugAssign,
    inner: cst.BaseExpression | None,
    divisor: cst.BaseExpression | None,
) -> list[Reduction]:
    function = file.function(node)
    if function is None or not _ABOUT_LOSS.search(file.code(function)):
        return []
    before = Value() if inner is None else run.value(file, inner)
    if before.kind is Kind.REDUCED:
        return []
    if isinstance(node, cst.AugAssign):
        assert divisor is not None
        value = combined(node.operator, before, run.value(file, divisor))
    else:
        value = run.value(file, node)
    about_masked = value.kind is Kind.REDUCED and (value.selected or bool(value.mask) or bool(value.slices))
    return [Reduction(file, node, value, inner, divisor, function)] if about_masked else []


def judge(one: Reduction) -> tuple[State, str]:
    """Return how a reduction stands to official's, and the sentence that says so."""
    state, evidence = _judge(one)
    if state is State.DIVERGED and (name := _stands_in_for(one)):
        return State.PARTIAL, f"where `{name}` is not given, {evidence}"
    return state, evidence


def _stands_in_for(one: Reduction) -> str:
    """Return the name of the weights without which a branch runs, as in `if masks_weight is None:`."""
    inside: cst.CSTNode = one.node
    for around in one.file.ancestors(one.node):
        if isinstance(around, cst.If):
            found = re.fullmatch(r"\(?(\w*weight\w*) is (not )?None\)?", one.file.code(around.test))
            if found and bool(found[2]) == (inside is not around.body):
                return found[1]
        if isinstance(around, cst.FunctionDef):
            break
        inside = around
    return ""


def _judge(one: Reduction) -> tuple[State, str]:
    value, code = one.value, one.file.code(one.node)
    by = "the mean" if one.divisor is None else f"`{one.file.code(one.divisor)}`"
    if value.weight is Weight.UNSEEN:
        return _unseen(one, by)
    if value.weight is Weight.PER_ROW and value.divisor is Kind.N_TOKENS:
        return State.DIVERGED, (
            f"tokens already weigh one over the masked tokens of their row, and {by} divides by their number once "
            "more; official divides by the number of rows, 2B"
        )
    if value.weight is Weight.PER_ROW and value.divisor is Kind.N_ROWS:
        if not value.exact and isinstance(one.inner, cst.BaseExpression) and _is_row_mean(one):
            return State.PARTIAL, (
                "every row is averaged over its own masked tokens, but a row without any divides 0 by 0; official "
                "takes at least 1 as the divisor"
            )
        return _accumulated(one)
    if value.divisor is Kind.N_TOKENS:
        if not (value.selected or value.mask):
            return State.UNKNOWN, f"{by} divides by as many tokens as are summed; whether they are masked is not seen"
        return State.DIVERGED, (
            f"{by} divides by the masked tokens of the whole batch, so a row counts by how many of its tokens are "
            "masked; official weighs every row alike and divides by the rows"
        )
    if value.divisor is Kind.N_ROWS:
        return State.PARTIAL, (
            f"{by} divides by the rows, as official does, but no token weighs one over the masked tokens of its row, "
            "so a row counts by how many of its tokens are masked"
        )
    return State.UNKNOWN, f"what {by} counts in `{code}` is not seen: masked tokens, or rows"


def _is_row_mean(one: Reduction) -> bool:
    return one.divisor is None


def _unseen(one: Reduction, by: str) -> tuple[State, str]:
    weight = f"`{one.value.text}`" if one.value.text else "a factor"
    if one.value.divisor is Kind.N_ROWS:
        return State.UNKNOWN, (
            f"tokens are weighted by {weight} and divided by the rows; official's form if the weights are one over "
            "the masked tokens of the row, which the text does not show"
        )
    return State.UNKNOWN, (
        f"tokens are weighted by {weight} and {by} divides once more; if the weights are one over the masked tokens "
        "of the row, they are normalised twice"
    )


def _accumulated(one: Reduction) -> tuple[State, str]:
    """Return the state of a per-row mean: whether crops whose losses are added up are also averaged."""
    file, statement = one.file, one.file.statement(one.node)
    in_loop = any(isinstance(around, cst.For) for around in file.ancestors(one.node))
    added = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    if in_loop and isinstance(added, cst.AugAssign) and isinstance(added.operator, cst.AddAssign):
        name = file.code(added.target)
        if not re.search(rf"(?<![\w.]){re.escape(name)}\s*(/|\.div)", file.code(one.function)):
            return State.PARTIAL, (
                f"every row weighs the same within a crop, but `{name}` adds up the crops and is not divided by their "
                "number here; official takes one mean over all global crops"
            )
        return State.ALIGNED, (
            "every row weighs the same, and crops are averaged: with equally many rows per crop that is official's "
            "mean over all global crops"
        )
    return State.ALIGNED, "tokens weigh one over the masked tokens of their row, and the sum is divided by the rows"
