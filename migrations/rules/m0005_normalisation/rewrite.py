"""The edits that give every row the same weight, where the text shows what they need."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from migrations.engine.edits import insert_before, replace
from migrations.engine.model import Edit, Level
from migrations.engine.source import SourceFile
from migrations.flow.bindings import bindings, resolve
from migrations.flow.calls import parameters
from migrations.flow.nodes import callee
from migrations.rules.m0005_normalisation.evaluate import Evaluator
from migrations.rules.m0005_normalisation.operations import dims_of, imported, subject_of
from migrations.rules.m0005_normalisation.proofs import is_two_dimensional, kept, operand, protected, selects_here
from migrations.rules.m0005_normalisation.sites import Reduction
from migrations.rules.m0005_normalisation.values import Kind, Weight

__all__ = ["Mending", "mend"]

_THREAD = (
    "pass the mask (rows, tokens) of all 2B global crops to `{name}`, or collate's `masks_weight` (one per masked "
    "token) and the number of rows; then divide the weighted sum by the rows, unmasked ones included"
)


@dataclass(frozen=True)
class Mending:
    """Edits, what is proven of them, and what is left to a person."""

    level: Level = Level.MANUAL
    edits: tuple[Edit, ...] = ()
    person: str = ""


def mend(run: Evaluator, one: Reduction) -> Mending:
    """Return how a reduction is mended."""
    mask, statement = one.value.mask, one.file.statement(one.node)
    by_hand = Mending(person=_THREAD.format(name=one.function.name.value))
    if not mask and (threaded := _threaded(run, one)) is not None:
        return threaded
    if not mask.isidentifier() or not kept(one.file, one.function, mask):
        return by_hand
    if one.inner is None or not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return by_hand
    if isinstance(one.node, cst.Call) and run.value(one.file, one.inner).kind is Kind.ROW_MEAN:
        if one.value.exact:
            return Mending(person="divide the sum over the crops by their number, or take one mean over all of them")
        return _guarded(run, one) or by_hand
    edits = _dense(run, one, mask) if not one.value.selected else _selected(run, one, mask)
    if not edits:
        return by_hand
    proven = is_two_dimensional(run, one, mask) and selects_here(one, mask)
    rows = f"`{mask}.shape[0]` must count all global crops, 2B, unmasked ones included"
    if proven:
        return Mending(Level.SAFE, tuple(edits), rows)
    assumed = f"assumes that `{mask}` is (rows, tokens) and that the tokens are in its order"
    return Mending(Level.UNSAFE, tuple(edits), f"{assumed}; {rows}")


def _selected(run: Evaluator, one: Reduction, mask: str) -> list[Edit]:
    """Return the edits of a loss over gathered tokens: weights of tokens, and rows as the divisor."""
    file = one.file
    if one.value.weight is Weight.PER_ROW:
        return _divided_by_rows(run, one, mask, weight="")
    statement = file.statement(one.node)
    assert isinstance(statement, cst.SimpleStatementLine)
    weight, exists = _weight_name(one)
    edits = _divided_by_rows(run, one, mask, weight)
    target = _summed(run, one)
    first = file.statement(target[0]) if target else statement
    if not edits or not isinstance(first, cst.SimpleStatementLine):
        return []
    lines = (
        f"# Each masked token weighs one over the masked tokens of its row, so that every row counts alike.\n"
        f"{weight} = (1 / {mask}.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as({mask})[{mask}]"
    )
    return edits if exists else [insert_before(file, first, lines), *edits]


def _divided_by_rows(run: Evaluator, one: Reduction, mask: str, weight: str) -> list[Edit]:
    file, rows = one.file, f"{mask}.shape[0]"
    if one.divisor is None:
        assert one.inner is not None
        assert isinstance(one.node, cst.Call)
        whole = file.code(one.inner) if not weight else f"{operand(file, one.inner)} * {weight}"
        plain = not weight and isinstance(one.inner, cst.Name | cst.Call | cst.Subscript)
        code = f"{whole}.sum() / {rows}" if plain else f"({whole}).sum() / {rows}"
        return [replace(file, one.node, protected(file, one.node, code))]
    edits = [replace(file, one.divisor, rows)]
    if not weight:
        return edits
    target = _summed(run, one)
    if target is None:
        return []
    call, operand_node = target
    value = run.value(file, operand_node)
    factor = operand(file, operand_node)
    if value.kind is Kind.PRODUCT:
        code = file.code(operand_node)
        factor = f"{_torch(call)}.sum({code}, dim=-1)" if _torch(call) else f"({code}).sum(dim=-1)"
    method = isinstance(call.func, cst.Attribute) and call.func.value is operand_node
    bare = method and not operand_node.lpar
    return [*edits, replace(file, operand_node, f"({factor} * {weight})" if bare else f"{factor} * {weight}")]


def _threaded(run: Evaluator, one: Reduction) -> Mending | None:
    """Return the edits that also hand the mask to a function whose callers select the tokens with it."""
    file, function, name = one.file, one.function, "student_masks_flat"
    callers = run.calls.callers(run.calls.definition(file, function))
    masks = [_mask_of_arguments(run, *caller) for caller in callers]
    params = function.params
    simple = not params.kwonly_params and params.star_kwarg is None and isinstance(params.star_arg, cst.MaybeSentinel)
    last = params.params[-1] if params.params else None
    if not masks or not all(masks) or not simple or last is None or name in parameters(function):
        return None
    edits = _selected(run, one, name)
    if not edits:
        return None
    end = file.span(last)[1]
    edits.append(Edit(file.path, end, end, f", *, {name}"))
    for (there, call), mask in zip(callers, masks, strict=True):
        end = there.span(call.args[-1])[1]
        comma = "" if isinstance(call.args[-1].comma, cst.MaybeSentinel) else ","
        edits.append(Edit(there.path, end, end, f"{'' if comma else ','} {name}={mask}{comma}".replace(", ,", ",")))
    person = (
        f"`{function.name.value}` now also takes `{name}`, bool (rows, tokens), which the callers seen "
        f"({len(callers)}) give; callers that the text does not show must do so too, and the rows must "
        "be all global crops, 2B, unmasked ones included"
    )
    return Mending(Level.UNSAFE, tuple(edits), person)


def _mask_of_arguments(run: Evaluator, file: SourceFile, call: cst.Call) -> str:
    """Return the one mask by which a caller selects the tokens that it gives; empty where it is not certain."""
    masks = {value.mask for arg in call.args if (value := run.value(file, arg.value)).selected}
    mask = masks.pop() if len(masks) == 1 else ""
    return mask if mask.replace(".", "a").isidentifier() else ""


def _dense(run: Evaluator, one: Reduction, mask: str) -> list[Edit]:
    """Return the edits of a loss over all tokens that a mask has set to zero where it does not count."""
    file, rows = one.file, f"{mask}.shape[0]"
    counts = f"{mask}.sum(-1, keepdim=True).clamp(min=1.0)"
    weighted = one.value.weight is Weight.PER_ROW
    if one.divisor is None:
        assert one.inner is not None
        code = f"({file.code(one.inner)})" if weighted else f"({operand(file, one.inner)} / {counts})"
        return [replace(file, one.node, protected(file, one.node, f"{code}.sum() / {rows}"))]
    edits = [replace(file, one.divisor, rows)]
    target = _summed(run, one)
    if weighted or target is None or run.value(file, target[1]).kind is not Kind.TOKEN_LOSS:
        return edits if weighted else []
    call, node = target
    method = isinstance(call.func, cst.Attribute) and call.func.value is node
    code = f"{operand(file, node)} / {counts}"
    return [*edits, replace(file, node, f"({code})" if method and not node.lpar else code)]


def _guarded(run: Evaluator, one: Reduction) -> Mending | None:
    """Return the edit that keeps a row without masked tokens from dividing by zero."""
    assert one.inner is not None
    place = _origin(one.file, one.inner)
    if not (isinstance(place, cst.BinaryOperation) and run.value(one.file, place.right).kind is Kind.ROW_COUNT):
        return None
    code = f"{operand(one.file, place.right)}.clamp(min=1.0)"
    return Mending(Level.SAFE, (replace(one.file, place.right, code),), "")


def _summed(run: Evaluator, one: Reduction) -> tuple[cst.Call, cst.BaseExpression] | None:
    """Return the call of `sum` that a divided number comes from, and what it sums."""
    node = one.inner
    while isinstance(node, cst.UnaryOperation | cst.Name):
        if isinstance(node, cst.UnaryOperation):
            node = node.expression
            continue
        found = resolve(one.file, node)
        node = found[0].value if len(found) == 1 and found[0].kind == "assign" else None
    if not isinstance(node, cst.Call) or callee(node) != "sum" or one.file.function(node) is not one.function:
        return None
    subject = subject_of(node, imported(one.file))
    method = isinstance(node.func, cst.Attribute) and node.func.value is subject
    return None if subject is None or dims_of(node, method=method) is not None else (node, subject)


def _origin(file: SourceFile, node: cst.BaseExpression) -> cst.BaseExpression | None:
    found = resolve(file, node) if isinstance(node, cst.Name) else []
    return found[0].value if len(found) == 1 and found[0].kind == "assign" else node


def _torch(call: cst.Call) -> str:
    """Return the module that `torch.sum(…)` is taken from; empty for a method."""
    func = call.func
    return (
        func.value.value if isinstance(func, cst.Attribute) and isinstance(func.value, cst.Name) and call.args else ""
    )


def _weight_name(one: Reduction) -> tuple[str, bool]:
    """Return a name for the weights, and whether it holds them already."""
    taken = {binding.name for binding in bindings(one.function)}
    return next(
        name for name in ("masks_weight", "token_weight", "weight_per_masked_token") if name not in taken
    ), False
