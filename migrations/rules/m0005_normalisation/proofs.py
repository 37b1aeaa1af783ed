"""What the text proves of a mask, and how an expression is written into another."""

from __future__ import annotations

import re

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.bindings import bindings
from migrations.flow.dimensions import dimensions
from migrations.flow.nodes import find_all
from migrations.rules.m0005_normalisation.evaluate import Evaluator
from migrations.rules.m0005_normalisation.sites import Reduction

__all__ = ["is_two_dimensional", "kept", "operand", "protected", "selects_here"]


def operand(file: SourceFile, node: cst.BaseExpression) -> str:
    """Return an expression's text, in parentheses where a product would otherwise take it apart."""
    code = file.code(node)
    loose = isinstance(node, cst.UnaryOperation | cst.IfExp | cst.Comparison | cst.BooleanOperation) or (
        isinstance(node, cst.BinaryOperation) and not isinstance(node.operator, cst.Multiply)
    )
    # A node's text is without the parentheses around it.
    return f"({code})" if loose else code


def protected(file: SourceFile, node: cst.CSTNode, code: str) -> str:
    """Return a quotient's text, in parentheses where what stands around it would take it apart."""
    around = file.parent(node)
    tight = isinstance(around, cst.Attribute | cst.Subscript) or (
        isinstance(around, cst.BinaryOperation)
        and (
            isinstance(around.operator, cst.Power)
            or (around.right is node and not isinstance(around.operator, cst.Add | cst.Subtract))
        )
    )
    return f"({code})" if tight else code


def kept(file: SourceFile, function: cst.FunctionDef, mask: str) -> bool:
    """Whether a function binds a name once, so that it means one mask throughout."""
    return sum(binding.name == mask for binding in bindings(function)) == 1


def selects_here(one: Reduction, mask: str) -> bool:
    """Whether the function itself takes the masked tokens, or sets the others to zero."""
    text = one.file.code(one.function)
    return bool(re.search(rf"\[\s*{mask}\s*\]", text)) or not one.value.selected


def is_two_dimensional(run: Evaluator, one: Reduction, mask: str) -> bool:
    """Whether the text shows that a mask is (rows, tokens): of itself, or of three-sided features that it selects."""
    for name in find_all(one.function, cst.Name):
        if name.value == mask and dimensions(run.calls, one.file, name) == 2:
            return True
    for node in find_all(one.function, cst.Subscript):
        index = node.slice[0].slice
        selects = len(node.slice) == 1 and isinstance(index, cst.Index) and one.file.code(index.value) == mask
        if selects and dimensions(run.calls, one.file, node.value) == 3:
            return True
    return False
