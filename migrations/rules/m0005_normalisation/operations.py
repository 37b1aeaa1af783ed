"""What calls of torch's functions and methods make of values."""

from __future__ import annotations

from typing import Any, Protocol

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.nodes import argument, attribute_chain, callee, literal
from migrations.rules.m0005_normalisation.algebra import clamped, divided, mean, of_scores, total
from migrations.rules.m0005_normalisation.values import UNKNOWN, Kind, Value, join

__all__ = ["Evaluates", "called", "dims_of", "imported", "subject_of"]

_SAME_NAMES = (
    "to float half double cuda cpu detach contiguous clone type type_as view reshape squeeze unsqueeze "
    "expand expand_as repeat flatten long int item new_tensor tensor as_tensor ascontiguousarray "
    "requires_grad_"
)
_SAME = frozenset(_SAME_NAMES.split())
"""Calls that keep what a value means here: they change its type or spread it out."""

_KEPT_FROM_ZERO = frozenset(("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "max", "maximum"))


class Evaluates(Protocol):
    """What this module needs of the evaluator."""

    def value(self, file: SourceFile, node: cst.BaseExpression, frame: Any) -> Value:
        """Return what an expression holds."""

    def first(self, file: SourceFile, node: cst.BaseExpression, frame: Any) -> Value:
        """Return what an expression's first side counts."""


def imported(file: SourceFile) -> set[str]:
    """Return the names that a file imports: of modules, mostly."""
    found = set()
    for alias in file.nodes(cst.ImportAlias):
        if alias.asname is not None and isinstance(alias.asname.name, cst.Name):
            found.add(alias.asname.name.value)
        else:
            found.add(attribute_chain(alias.name).split(".")[0])
    return found


def subject_of(call: cst.Call, modules: set[str]) -> cst.BaseExpression | None:
    """Return what a call works on: the object of a method, or else the first argument."""
    func = call.func
    if isinstance(func, cst.Attribute) and attribute_chain(func.value).split(".")[0] not in modules | {"self", ""}:
        return func.value
    if isinstance(func, cst.Attribute) and not attribute_chain(func.value):
        return func.value
    return call.args[0].value if call.args and not call.args[0].star else argument(call, "input")


def dims_of(call: cst.Call, *, method: bool) -> tuple[int, ...] | None:
    """Return the dimensions that a sum goes over; None for all of them."""
    node = argument(call, "dim", 0 if method else 1) or argument(call, "axis")
    value = literal(node) if node is not None else None
    if isinstance(value, int):
        return (value,)
    if isinstance(value, tuple | list):
        return tuple(item for item in value if isinstance(item, int))
    return None if value is None else (99,)


def called(run: Evaluates, file: SourceFile, call: cst.Call, frame: Any, modules: set[str]) -> Value:
    """Return what a call gives back that runs no function of the project."""
    if callee(call) == "" and isinstance(call.func, cst.Call) and callee(call.func) == "LogSoftmax" and call.args:
        return of_scores(Kind.LOG_PROBABILITY, run.value(file, call.args[0].value, frame))
    node = subject_of(call, modules)
    if node is None:
        return UNKNOWN
    method = isinstance(call.func, cst.Attribute) and call.func.value is node
    name = callee(call)
    if name in ("len", "size") or name == "count_nonzero":
        return _counted(run, file, call, node, frame)
    if name in ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "where"):
        return _merged(run, file, call, node, frame)
    if name == "new_tensor" and call.args:
        node = call.args[0].value
    value = run.value(file, node, frame)
    if name in ("sum", "nansum"):
        return total(value, dims_of(call, method=method))
    if name == "mean":
        return mean(value) if dims_of(call, method=method) in (None, (0,), (-1,)) else UNKNOWN
    if name in ("log_softmax", "softmax"):
        return of_scores(Kind.LOG_PROBABILITY if name == "log_softmax" else Kind.PROBABILITY, value)
    if name == "log" and value.kind is Kind.PROBABILITY:
        return value.but(kind=Kind.LOG_PROBABILITY)
    if name in ("cross_entropy", "kl_div"):
        return _library_loss(run, file, call, value, frame)
    return _other(call, name, value)


def _other(call: cst.Call, name: str, value: Value) -> Value:
    if name in ("bernoulli", "bernoulli_"):
        return Value(Kind.MASK, "")
    if name == "bool":
        return value if value.kind is Kind.MASK else Value(Kind.MASK, "")
    if name == "nonzero":
        if value.kind is not Kind.MASK:
            return UNKNOWN
        places = Value(Kind.TOKEN_INDEX, value.mask)
        tupled = literal(argument(call, "as_tuple")) is True
        return Value(Kind.TUPLE, items=(places.but(kind=Kind.ROW_INDEX), UNKNOWN)) if tupled else places
    if name == "numel":
        return Value(Kind.N_TOKENS, value.mask) if value.selected and value.kind is Kind.TOKEN_LOSS else UNKNOWN
    if name in ("reciprocal", "pow") and value.kind is Kind.ROW_COUNT:
        return Value(Kind.ROW_WEIGHT, value.mask, exact=value.exact)
    if name in ("div", "true_divide") and call.args:
        return divided(value, UNKNOWN) if value.kind is Kind.TOTAL else UNKNOWN
    if name in _KEPT_FROM_ZERO:
        return clamped(value)
    if name in _SAME:
        return value
    # A head, a normalisation or Sinkhorn gives back as many rows as it is given.
    return Value(mask=value.mask, selected=value.selected, slices=value.slices)


def _counted(run: Evaluates, file: SourceFile, call: cst.Call, node: cst.BaseExpression, frame: Any) -> Value:
    if callee(call) == "count_nonzero":
        return total(run.value(file, node, frame), dims_of(call, method=True))
    whole = callee(call) == "size" and literal(argument(call, "dim", 0)) != 0
    return UNKNOWN if whole else run.first(file, node, frame)


def _merged(run: Evaluates, file: SourceFile, call: cst.Call, node: cst.BaseExpression, frame: Any) -> Value:
    """Return what several tensors of one kind are together; of `where`, what it takes where the condition holds."""
    if callee(call) == "where":
        if len(call.args) == 1:
            condition = run.value(file, node, frame)
            row = Value(Kind.ROW_INDEX, condition.mask) if condition.kind is Kind.MASK else UNKNOWN
            return Value(Kind.TUPLE, items=(row, UNKNOWN))
        taken = argument(call, "input", 1)
        value = UNKNOWN if taken is None else run.value(file, taken, frame)
        return value.but(exact=True) if value.kind is Kind.ROW_WEIGHT else UNKNOWN
    whole = run.value(file, node, frame)
    merged = join(list(whole.items)) if whole.kind is Kind.TUPLE and whole.items else UNKNOWN
    if isinstance(node, cst.ListComp | cst.GeneratorExp):
        merged = run.value(file, node.elt, frame)
    return merged.but(mask="") if merged.kind is not Kind.MASK else merged


def _library_loss(run: Evaluates, file: SourceFile, call: cst.Call, value: Value, frame: Any) -> Value:
    """Return the value of torch's own cross-entropy with targets that are probabilities."""
    node = argument(call, "target", 1)
    target = UNKNOWN if node is None else run.value(file, node, frame)
    divergence = callee(call) == "kl_div" and value.kind is Kind.LOG_PROBABILITY
    if target.kind is not Kind.PROBABILITY and not divergence:
        return UNKNOWN
    reduction = literal(argument(call, "reduction"))
    base = Value(mask=value.mask or target.mask, selected=value.selected or target.selected, slices=value.slices)
    kinds: dict[object, Kind] = {"none": Kind.PRODUCT if divergence else Kind.TOKEN_LOSS, "sum": Kind.TOTAL}
    if reduction in kinds:
        return base.but(kind=kinds[reduction])
    # kl_div's own mean also divides by the number of prototypes: "batchmean" is the one over tokens.
    is_mean = reduction == "batchmean" if divergence else reduction in (..., "mean")
    return base.but(kind=Kind.REDUCED, divisor=Kind.N_TOKENS) if is_mean and base.selected else UNKNOWN
