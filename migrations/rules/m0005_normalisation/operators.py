"""What binary operators and indices make of values."""

from __future__ import annotations

import libcst as cst

from migrations.rules.m0005_normalisation.algebra import NUMBER, clamped, divided, multiplied
from migrations.rules.m0005_normalisation.values import UNKNOWN, Kind, Value

__all__ = ["combined", "gathered"]


def combined(operator: cst.CSTNode, left: Value, right: Value) -> Value:
    """Return what a binary operator, or its augmented form, makes of two values."""
    match operator:
        case cst.Multiply() | cst.MultiplyAssign() | cst.BitAnd():
            return multiplied(left, right)
        case cst.Divide() | cst.DivideAssign():
            return divided(left, right)
        case cst.Add() | cst.Subtract() if right is NUMBER:
            return clamped(left)
    if left.selected or right.selected:
        return Value(mask=left.mask or right.mask, selected=True, slices=left.slices | right.slices)
    return UNKNOWN


def gathered(whole: Value, index: Value, text: str) -> Value:
    """Return `whole[index]`."""
    if index.kind is Kind.MASK or index.kind is Kind.TOKEN_INDEX:
        if whole.kind is Kind.ROW_WEIGHT:
            return whole.but(kind=Kind.TOKEN_WEIGHT, mask=index.mask)
        return whole.but(selected=True, mask=index.mask)
    if index.kind is Kind.ROW_INDEX and whole.kind is Kind.ROW_WEIGHT:
        return whole.but(kind=Kind.TOKEN_WEIGHT, mask=index.mask)
    if index.kind is Kind.ROW_INDEX:
        return Value(mask=index.mask, selected=True, text=text)
    return Value(text=text)
