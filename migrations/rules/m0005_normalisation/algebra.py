"""What sums, means, products and quotients make of values; shapes as in `values`."""

from __future__ import annotations

from migrations.rules.m0005_normalisation.values import UNKNOWN, Kind, Value, Weight

__all__ = ["clamped", "divided", "mean", "multiplied", "of_scores", "total"]

NUMBER = Value(text="a number")
"""A literal: it scales, and changes nothing that is asked here."""

_LOSSES = (Kind.PRODUCT, Kind.TOKEN_LOSS)
_NUMBERS = (Kind.TOTAL, Kind.REDUCED)


def of_scores(kind: Kind, scores: Value) -> Value:
    """Return (log-)probabilities of scores, which are as many as the scores."""
    return Value(kind, scores.mask, scores.selected, slices=scores.slices)


def total(value: Value, dims: tuple[int, ...] | None) -> Value:
    """Return the sum over all elements, or over some dimensions."""
    last = dims is not None and (dims == (-1,) or dims == (1 if value.selected else 2,))
    if value.kind is Kind.PRODUCT:
        return value.but(kind=Kind.TOKEN_LOSS) if last else value.but(kind=Kind.TOTAL) if dims is None else UNKNOWN
    if value.kind is Kind.TOKEN_LOSS:
        if dims is None or (value.selected and dims in ((-1,), (0,))):
            return value.but(kind=Kind.TOTAL)
        return value.but(kind=Kind.ROW_SUM) if dims in ((-1,), (1,), (-1, -2), (-2, -1), (1, 2)) else UNKNOWN
    if value.kind is Kind.ROW_SUM and dims is None:
        return value.but(kind=Kind.TOTAL)
    if value.kind is Kind.ROW_MEAN and dims is None:
        return value.but(kind=Kind.TOTAL, weight=Weight.PER_ROW)
    if value.kind is Kind.MASK:
        if dims is None:
            return Value(Kind.N_TOKENS, value.mask)
        return Value(Kind.ROW_COUNT, value.mask) if 0 not in dims else UNKNOWN
    return UNKNOWN


def mean(value: Value) -> Value:
    """Return the mean over all elements."""
    if value.kind is Kind.ROW_MEAN:
        return value.but(kind=Kind.REDUCED, weight=Weight.PER_ROW, divisor=Kind.N_ROWS)
    if value.kind is Kind.TOKEN_LOSS and (value.selected or value.mask):
        return value.but(kind=Kind.REDUCED, divisor=Kind.N_TOKENS)
    return UNKNOWN


def clamped(value: Value) -> Value:
    """Return a value that is kept from zero."""
    return value.but(exact=True) if value.kind is Kind.ROW_COUNT else value


def multiplied(left: Value, right: Value) -> Value:
    """Return a product; the order of the factors makes no difference."""
    for one, other in ((left, right), (right, left)):
        if other is NUMBER or one.kind in _NUMBERS:
            return one
        if one.kind in _LOSSES:
            return _weighted(one, other)
        if one.kind is Kind.LOG_PROBABILITY and other.kind in (Kind.OTHER, Kind.PROBABILITY):
            mask = one.mask or other.mask
            return Value(Kind.PRODUCT, mask, one.selected or other.selected, slices=one.slices | other.slices)
        if one.kind is Kind.ROW_WEIGHT and other.kind is Kind.MASK:
            return one
        if one.kind is Kind.TOKEN_WEIGHT and other.kind is Kind.OTHER:
            # Whatever is weighted so is one number per masked token: a loss that a library computes.
            return Value(Kind.TOKEN_LOSS, one.mask, selected=True, weight=Weight.PER_ROW, slices=other.slices)
    return _either(left, right)


def divided(left: Value, right: Value) -> Value:
    """Return a quotient."""
    if right.kind is Kind.ROW_COUNT:
        if left is NUMBER or left.kind is Kind.MASK:
            return Value(Kind.ROW_WEIGHT, right.mask, exact=right.exact)
        if left.kind is Kind.ROW_SUM:
            return left.but(kind=Kind.ROW_MEAN, mask=right.mask, exact=right.exact)
        if left.kind in _LOSSES and not left.selected:
            return left.but(weight=Weight.PER_ROW, exact=right.exact)
    if left.kind is Kind.TOTAL and right is not NUMBER:
        divisor = Kind.N_TOKENS if right.text in left.slices else right.kind
        if divisor not in (Kind.N_TOKENS, Kind.N_ROWS):
            divisor = Kind.OTHER
        return left.but(kind=Kind.REDUCED, divisor=divisor)
    if left.kind is Kind.TOKEN_LOSS and right.kind in (Kind.N_TOKENS, Kind.N_ROWS):
        return UNKNOWN
    return UNKNOWN if left is NUMBER else left


def _weighted(loss: Value, factor: Value) -> Value:
    """Return losses of tokens times what may be a weight or a mask."""
    if factor.kind is Kind.MASK and not loss.selected:
        return loss.but(mask=factor.mask)
    if factor.kind is Kind.TOKEN_WEIGHT or (factor.kind is Kind.ROW_WEIGHT and not loss.selected):
        mask = loss.mask or factor.mask
        return loss.but(weight=Weight.PER_ROW, mask=mask, selected=loss.selected or factor.kind is Kind.TOKEN_WEIGHT)
    selected = loss.selected or factor.selected
    return loss.but(weight=Weight.UNSEEN, text=factor.text, selected=selected, mask=loss.mask or factor.mask)


def _either(left: Value, right: Value) -> Value:
    """Return the selection of whichever factor has one."""
    one = left if left.selected else right
    return Value(mask=one.mask, selected=True, slices=left.slices | right.slices) if one.selected else UNKNOWN
