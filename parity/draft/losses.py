"""Wires the losses: classes or functions with a student's and a teacher's output, in whatever order they are named."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from parity.draft.definitions import Definition, Function, Parameter
from parity.draft.roles import Roles, Unbound, bind
from parity.draft.wiring import Found, Gap, Wired, call_lines, called_with, imported, literals, place

__all__ = ["wire_dino_loss", "wire_ibot_loss", "wire_koleo_loss", "wire_sinkhorn", "wire_softmax_center"]

_WIDTH = r"(dino_|ibot_|cls_|patch_)?(out_dim|output_dim|n_prototypes|num_prototypes|head_n_prototypes)|dim|k|n_classes"
_STUDENT = re.compile(r"student|(^|_)s(_|$)|pred")
_TEACHER = re.compile(r"teacher|target|(^|_)t(_|$)")
_MASKS = r".*(^|_)masks?(_|$).*"
_TYPED = frozenset({"typed"})


class _UndecidedError(Exception):
    """Says why a call could not be written."""


def _made(found: Found, loss: Definition, like: str) -> str:
    """Return the construction of a loss of the width and dtype of the tensor `like`; a function is its own name."""
    if not loss.is_class:
        return loss.name
    roles: Roles = ((_WIDTH, f"{like}.shape[-1]"), (r"device", f"{like}.device"))
    try:
        arguments = bind(loss.parameters() or (), roles, literals(found.project, loss))
    except Unbound as error:
        raise _UndecidedError(f"{place(loss)} cannot be constructed: {error}") from error
    return f"typed({loss.name}({', '.join(arguments)}), {like})"


def _sides(parameters: Sequence[Parameter]) -> tuple[Parameter, Parameter]:
    """Return the student's and the teacher's parameter.

    Raises:
        _UndecidedError: the names do not tell which is which.
    """
    student = [p for p in parameters if _STUDENT.search(p.name.lower()) and not re.fullmatch(_MASKS, p.name.lower())]
    teacher = [
        p for p in parameters if _TEACHER.search(p.name.lower()) and "temp" not in p.name.lower() and p not in student
    ]
    if len(student) != 1 or len(teacher) != 1:
        names = ", ".join(f"`{p.name}`" for p in parameters) or "none"
        raise _UndecidedError(
            f"which argument is the student's and which the teacher's is not told by the names: {names}"
        )
    return student[0], teacher[0]


def _node(loss: Definition, method: str) -> Function:
    if loss.is_class:
        return loss.methods()[method]
    assert isinstance(loss.node, Function)
    return loss.node


def _centers_itself(node: Function) -> bool:
    """Return whether a loss takes the teacher's logits: it applies a softmax to something of the teacher's."""
    for call in ast.walk(node):
        name = getattr(getattr(call, "func", None), "attr", getattr(getattr(call, "func", None), "id", ""))
        if isinstance(call, ast.Call) and name == "softmax":
            words = {n.id for n in ast.walk(call) if isinstance(n, ast.Name)}
            if any(_TEACHER.search(word) and "temp" not in word and not _STUDENT.search(word) for word in words):
                return True
    return False


def _call(found: Found, loss: Definition, method: str, like: str, roles: Roles, teacher: str, logits: str) -> Wired:
    """Return the call of a loss with the student's and the teacher's tensors bound by name.

    Args:
        found: the fork.
        loss: class or function.
        method: of the class; empty for a function.
        like: a tensor of the logits' width and dtype.
        roles: of the parameters beside the teacher's; the student's is the first.
        teacher: the teacher's probabilities.
        logits: logits whose softmax at temperature 1 they are.

    Raises:
        _UndecidedError: it could not be bound.
    """
    parameters = loss.parameters(method) or ()
    student_side, teacher_side = _sides(parameters)
    known = {student_side.name: roles[0][1], teacher_side.name: teacher}
    remarks: tuple[str, ...] = ()
    made = _made(found, loss, like)
    if _centers_itself(_node(loss, method)):
        known[teacher_side.name] = logits
        remarks = (
            "it applies the softmax to the teacher itself, so it is given logits of which parity's targets are the "
            "softmax at temperature 1",
        )
        made = _at_temperature_one(loss, parameters, known, made)
    try:
        arguments = bind(parameters, roles[1:], known)
    except Unbound as error:
        raise _UndecidedError(f"{place(loss, method)}: {error}") from error
    lines = [imported(loss)]
    if loss.is_class:
        lines.append(f"loss = {made}")
        made = "loss" if method == "forward" else f"loss.{method}"
    lines += call_lines(f"return {made}", arguments)
    return Wired(tuple(lines), (place(loss, method),), remarks, _TYPED if loss.is_class else frozenset())


def _at_temperature_one(loss: Definition, parameters: Sequence[Parameter], known: dict[str, str], made: str) -> str:
    """Give a loss that sharpens its teacher the temperature 1, in its call or else in its constructor."""
    if any(p.name == "teacher_temp" for p in parameters):
        known["teacher_temp"] = "1.0"
        return made
    names = [p.name for p in loss.parameters() or () if p.name in ("teacher_temp", "warmup_teacher_temp")]
    if not names:
        raise _UndecidedError(
            f"{place(loss)} applies the softmax to the teacher at a temperature that cannot be given to it"
        )
    opened = made.index("(", made.index(loss.name)) + 1
    separator = "" if made[opened] == ")" else ", "
    return made[:opened] + ", ".join(f"{name}=1.0" for name in names) + separator + made[opened:]


def wire_dino_loss(found: Found) -> Wired | Gap:
    """`dino_loss`: the cross-entropy over all pairs."""
    loss = found.best("dino loss")
    if loss is None:
        return Gap("no DINO loss was found, by the name DINOLoss or by its methods and arguments")
    try:
        return _call(
            found,
            loss,
            "forward" if loss.is_class else "",
            "student_output_list[0]",
            ((r"", "student_output_list"),),
            "teacher_out_softmaxed_centered_list",
            "[target.log() for target in teacher_out_softmaxed_centered_list]",
        )
    except (_UndecidedError, KeyError) as error:
        return Gap(_told(error), (place(loss),))


def wire_ibot_loss(found: Found) -> Wired | Gap:
    """`ibot_loss`: of masked tokens, flat or spread over their crops."""
    loss = found.best("ibot loss")
    if loss is None:
        return Gap("no iBOT loss was found, by the name iBOTPatchLoss or by its methods and arguments")
    method = _ibot_method(found, loss) if loss.is_class else ""
    student, teacher = "student_patch_tokens_masked", "teacher_patch_tokens_masked"
    logits = f"{teacher}.log()"
    try:
        node = _node(loss, method)
        flat = method == "forward_masked" or _takes_flat_tokens(node, loss.parameters(method) or ())
        if not flat:
            student, teacher, logits = (f"spread({name}, student_masks_flat)" for name in (student, teacher, logits))
        roles = (
            (r"", student),
            (r".*masks?_weights?|weights?", "masks_weight"),
            (r"n_masked.*|num_masked.*|n_patches", "n_masked_patches"),
            (_MASKS, "student_masks_flat"),
        )
        wired = _call(found, loss, method, "student_patch_tokens_masked", roles, teacher, logits)
    except (_UndecidedError, KeyError) as error:
        return Gap(_told(error), (place(loss),))
    if flat:
        return wired
    remark = "it takes the tokens of whole crops: unmasked ones are given as zeros, which its masks leave out"
    return Wired(wired.body, wired.sources, (*wired.remarks, remark), wired.uses | {"spread"})


def _ibot_method(found: Found, loss: Definition) -> str:
    """Return the method that training calls: the fork may derive from official's loss and use a forward of its own."""
    if "forward_masked" not in loss.methods():
        return "forward"
    own = {node.name for node in loss.node.body if isinstance(node, Function)} if loss.is_class else set()
    used = next(called_with(found.project, "forward_masked"), None) is not None
    return "forward" if "forward" in own and not used and "forward_masked" not in own else "forward_masked"


def _takes_flat_tokens(node: Function, parameters: Sequence[Parameter]) -> bool:
    """Return whether a loss takes the masked tokens alone rather than all tokens with masks that choose among them.

    Raises:
        _UndecidedError: neither is told.
    """
    student, teacher = _sides(parameters)
    masks = {p.name for p in parameters if re.fullmatch(_MASKS, p.name.lower()) and "weight" not in p.name}
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
    if multiplied == (indexed or other) and not indexed:
        raise _UndecidedError(
            "whether it takes the masked tokens alone or those of whole crops is told by no name and no use"
        )
    return not (multiplied or indexed)


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
        why = str(Unbound(rest[0])) if rest else "it has no forward with an argument"
        return Gap(f"{place(loss)}: {why}", (place(loss),))
    if not loss.is_class:
        return Wired((imported(loss), f"return {loss.name}(student_output)"), (place(loss),))
    try:
        made = _made(found, loss, "student_output")
    except _UndecidedError as error:
        return Gap(_told(error), (place(loss),))
    lines = (imported(loss), f"loss = {made}", "return loss(student_output)")
    return Wired(lines, (place(loss, "forward"),), (), _TYPED)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, _UndecidedError) else f"it has no method {error}"


def _of_both(found: Found, methods: Sequence[str]) -> tuple[Definition, Definition]:
    """Return the DINO and the iBOT loss, which must be classes with the given methods, the first with a temperature.

    Raises:
        _UndecidedError: they are not.
    """
    pair = []
    for part in ("dino loss", "ibot loss"):
        loss = found.best(part)
        lacking = [m for m in methods if loss is None or m not in loss.methods()]
        if loss is None or lacking:
            owner = f"no {part} was found" if loss is None else f"{place(loss)} has no method {', '.join(lacking)}"
            raise _UndecidedError(owner)
        if not any("temp" in p.name for p in loss.parameters(methods[0]) or ()):
            raise _UndecidedError(f"{place(loss, methods[0])} takes no temperature")
        pair.append(loss)
    return pair[0], pair[1]


def _both_places(found: Found) -> tuple[str, ...]:
    return tuple(place(loss) for part in ("dino loss", "ibot loss") if (loss := found.best(part)) is not None)


def wire_sinkhorn(found: Found) -> Wired | Gap:
    """`sinkhorn`: the assignments of either loss."""
    roles: Roles = (
        (r".*temp(erature)?|epsilon|eps", "teacher_temp"),
        (r"n_masked.*_tensor|n_masked.*|num_masked.*", "torch.full((1,), teacher_output.shape[0], dtype=torch.long)"),
        (r"n_samples|n_tokens|n_rows", "teacher_output.shape[0]"),
    )
    lines: list[str] = []
    try:
        both = _of_both(found, ("sinkhorn_knopp_teacher",))
        for kind, loss in zip(("dino", "ibot"), both, strict=True):
            first, *rest = loss.parameters("sinkhorn_knopp_teacher") or ()
            arguments = [f"{first.name}=teacher_output", *bind(rest, roles)]
            begin = [imported(loss), f"loss = {_made(found, loss, 'teacher_output')}"]
            inner = [*begin, *call_lines("return loss.sinkhorn_knopp_teacher", arguments)]
            lines += [f'if kind == "{kind}":', *(f"    {line}" for line in inner)]
        sources = tuple(place(loss, "sinkhorn_knopp_teacher") for loss in both)
        return Wired((*lines, "raise ValueError(kind)"), sources, (), _TYPED | {"torch"})
    except (_UndecidedError, Unbound, ValueError) as error:
        return _free_sinkhorn(found, roles, str(error))


def _free_sinkhorn(found: Found, roles: Roles, reason: str) -> Wired | Gap:
    """A function for both losses, where the losses have no method of their own."""
    function = found.best("sinkhorn")
    parameters = (function.parameters() if function else None) or ()
    if function is None or not parameters:
        return Gap(reason, _both_places(found))
    try:
        arguments = [f"{parameters[0].name}=teacher_output", *bind(parameters[1:], roles)]
    except Unbound as error:
        return Gap(f"{reason}; {place(function)}: {error}", (place(function),))
    return Wired(
        (imported(function), *call_lines(f"return {function.name}", arguments)),
        (place(function),),
        (f"one function for both kinds: {reason}",),
        frozenset({"torch"}),
    )


def wire_softmax_center(found: Found) -> Wired | Gap:
    """`softmax_center`: targets, centre updates, and the centre with the pending update applied."""
    lines = []
    try:
        both = _of_both(found, ("softmax_center_teacher", "update_center", "apply_center_update"))
        for kind, loss in zip(("dino", "ibot"), both, strict=True):
            made = f"    loss = {_made(found, loss, 'teacher_outputs[0]')}"
            lines += [f'if kind == "{kind}":', f"    {imported(loss)}", made]
    except _UndecidedError as error:
        return Gap(str(error), _both_places(found))
    sources = tuple(place(loss, "softmax_center_teacher") for loss in both)
    body = (*lines, "return centered(loss, teacher_outputs, teacher_temp)")
    return Wired(body, sources, (), _TYPED | {"centered"})
