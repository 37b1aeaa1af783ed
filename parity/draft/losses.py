"""Wires the losses: classes or functions with a student's and a teacher's output, in whatever order they are named."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace

from parity.draft.definitions import Definition, Function, Parameter
from parity.draft.loss_calls import MASKS, TYPED, UndecidedError, made_loss, node_of, paired_call, sides_of, told
from parity.draft.roles import UnboundError
from parity.draft.wiring import Found, Gap, Wired, called_with, imported, place

__all__ = ["wire_dino_loss", "wire_ibot_loss", "wire_koleo_loss"]


def wire_dino_loss(found: Found) -> Wired | Gap:
    """`dino_loss`: the cross-entropy over all pairs."""
    loss = found.best("dino loss")
    if loss is None:
        return Gap("no DINO loss was found, by the name DINOLoss or by its methods and arguments")
    try:
        return paired_call(
            found,
            loss,
            "forward" if loss.is_class else "",
            "student_output_list[0]",
            ((r"", "student_output_list"),),
            "teacher_out_softmaxed_centered_list",
            "[target.log() for target in teacher_out_softmaxed_centered_list]",
        )
    except (UndecidedError, KeyError) as error:
        return Gap(told(error), (place(loss),))


def wire_ibot_loss(found: Found) -> Wired | Gap:
    """`ibot_loss`: of masked tokens, flat or spread over their crops."""
    loss = found.best("ibot loss")
    if loss is None:
        return Gap("no iBOT loss was found, by the name iBOTPatchLoss or by its methods and arguments")
    method = _ibot_method(found, loss) if loss.is_class else ""
    student, teacher = "student_patch_tokens_masked", "teacher_patch_tokens_masked"
    logits, masks = f"{teacher}.log()", "student_masks_flat"
    try:
        node = node_of(loss, method)
        flat = method == "forward_masked" or _takes_flat_tokens(node, loss.parameters(method) or ())
        if _takes_grids(node):
            masks = "squared(student_masks_flat)"
        if not flat:
            student, teacher, logits = (f"spread({name}, student_masks_flat)" for name in (student, teacher, logits))
        roles = (
            (r"", student),
            (r".*masks?_weights?|weights?", "masks_weight"),
            (r"n_masked.*|num_masked.*|n_patches", "n_masked_patches"),
            (MASKS, masks),
        )
        wired = paired_call(found, loss, method, "student_patch_tokens_masked", roles, teacher, logits)
    except (UndecidedError, KeyError) as error:
        return Gap(told(error), (place(loss),))
    if masks != "student_masks_flat":
        wired = replace(wired, uses=wired.uses | {"squared"})
    if flat:
        return wired
    remark = "it takes the tokens of whole crops: unmasked ones are given as zeros, which its masks leave out"
    return replace(wired, remarks=(*wired.remarks, remark), uses=wired.uses | {"spread"})


def _ibot_method(found: Found, loss: Definition) -> str:
    """Return the method that training calls: the fork may derive from official's loss and use a forward of its own."""
    if "forward_masked" not in loss.methods():
        return "forward"
    own = {node.name for node in loss.node.body if isinstance(node, Function)} if loss.is_class else set()
    used = next(called_with(found.project, "forward_masked"), None) is not None
    return "forward" if "forward" in own and not used and "forward_masked" not in own else "forward_masked"


def _takes_flat_tokens(node: Function, parameters: Sequence[Parameter]) -> bool:
    """Return whether a loss takes the masked tokens alone rather than all tokens with masks that choose among them.

    All tokens need a mask that they are multiplied with or indexed by.

    Raises:
        UndecidedError: both seem to be done.
    """
    student, teacher = sides_of(parameters)
    masks = {p.name for p in parameters if re.fullmatch(MASKS, p.name.lower()) and "weight" not in p.name}
    if not masks or any("masked" in p.name for p in (student, teacher)):
        return True
    sides = {student.name, teacher.name}
    multiplied = indexed = other = False
    for part in ast.walk(node):
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult):
            multiplied |= any(_is_mask(side, masks) for side in (part.left, part.right))
        elif isinstance(part, ast.Subscript) and _is_mask(part.slice, masks):
            names = {n.id for n in ast.walk(part.value) if isinstance(n, ast.Name)}
            indexed, other = indexed or bool(names & sides), other or not names & sides
    if multiplied and other and not indexed:
        raise UndecidedError(
            "whether it takes the masked tokens alone or those of whole crops is not told by its source"
        )
    return not (multiplied or indexed)


def _takes_grids(node: Function) -> bool:
    """Return whether a loss sums something over two dimensions at once, as masks (R, H, W) are."""
    sums = [part for part in ast.walk(node) if isinstance(part, ast.Call) and getattr(part.func, "attr", "") == "sum"]
    given = [value for call in sums for value in [*call.args, *(keyword.value for keyword in call.keywords)]]
    return any(ast.unparse(value) in ("(1, 2)", "(-2, -1)", "(-1, -2)") for value in given)


def _is_mask(node: ast.expr, masks: set[str]) -> bool:
    """Return whether an expression is a mask, as it is or cast."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    return isinstance(node, ast.Name) and node.id in masks


def wire_koleo_loss(found: Found) -> Wired | Gap:
    """`koleo_loss`: of one crop's tokens."""
    loss = found.best("koleo loss")
    if loss is None:
        return Gap("no KoLeo loss was found, by the name KoLeoLoss or by its methods")
    parameters = loss.parameters("forward" if loss.is_class else "") or ()
    rest = [p for p in parameters[1:] if p.required]
    if not parameters or rest:
        why = str(UnboundError(rest[0])) if rest else "it has no forward with an argument"
        return Gap(f"{place(loss)}: {why}", (place(loss),))
    if not loss.is_class:
        return Wired((imported(loss), f"return {loss.name}(student_output)"), (place(loss),))
    try:
        made = made_loss(found, loss, "student_output")
    except UndecidedError as error:
        return Gap(told(error), (place(loss),))
    lines = (imported(loss), f"loss = {made}", "return loss(student_output)")
    return Wired(lines, (place(loss, "forward"),), (), TYPED)
