"""Calls of a loss: how it is made, and which of its arguments are the student's and which the teacher's."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from parity.draft.definitions import Definition, Function, Parameter
from parity.draft.roles import Roles, UnboundError, bind
from parity.draft.wiring import Found, Wired, call_lines, imported, literals, place

__all__ = ["MASKS", "TYPED", "UndecidedError", "made_loss", "node_of", "paired_call", "sides_of", "told"]

MASKS = r".*(^|_)masks?(_|$).*"
"""Parameters that take masks."""

TYPED = frozenset({"typed"})
"""What the construction of a loss uses."""

_WIDTH = r"(dino_|ibot_|cls_|patch_)?(out_dim|output_dim|n_prototypes|num_prototypes|head_n_prototypes)|dim|k|n_classes"
_STUDENT = re.compile(r"student|(^|_)s(_|$)|pred")
_TEACHER = re.compile(r"teacher|target|(^|_)t(_|$)")


class UndecidedError(Exception):
    """Says why a call could not be written."""


def made_loss(found: Found, loss: Definition, like: str) -> str:
    """Return the construction of a loss of the width and dtype of the tensor `like`; a function is its own name."""
    if not loss.is_class:
        return loss.name
    roles: Roles = ((_WIDTH, f"{like}.shape[-1]"), (r"device", f"{like}.device"))
    try:
        arguments = bind(loss.parameters() or (), roles, literals(found.project, loss))
    except UnboundError as error:
        raise UndecidedError(f"{place(loss)} cannot be constructed: {error}") from error
    return f"typed({loss.name}({', '.join(arguments)}), {like})"


def sides_of(parameters: Sequence[Parameter]) -> tuple[Parameter, Parameter]:
    """Return the student's and the teacher's parameter.

    Raises:
        UndecidedError: the names do not tell which is which.
    """
    named = [p for p in parameters if "temp" not in p.name.lower() and not re.fullmatch(MASKS, p.name.lower())]
    student = [p for p in named if _STUDENT.search(p.name.lower())]
    teacher = [p for p in named if _TEACHER.search(p.name.lower()) and p not in student]
    if len(student) != 1 or len(teacher) != 1:
        names = ", ".join(f"`{p.name}`" for p in parameters) or "none"
        raise UndecidedError(
            f"which argument is the student's and which the teacher's is not told by the names: {names}"
        )
    return student[0], teacher[0]


def node_of(loss: Definition, method: str) -> Function:
    """Return the function that computes a loss: a method of a class, or the function itself."""
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


def paired_call(
    found: Found, loss: Definition, method: str, like: str, roles: Roles, teacher: str, logits: str
) -> Wired:
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
        UndecidedError: it could not be bound.
    """
    parameters = loss.parameters(method) or ()
    student_side, teacher_side = sides_of(parameters)
    known = {student_side.name: roles[0][1], teacher_side.name: teacher}
    remarks: tuple[str, ...] = ()
    made = made_loss(found, loss, like)
    if _centers_itself(node_of(loss, method)):
        known[teacher_side.name] = logits
        remarks = (
            "it applies the softmax to the teacher itself, so it is given logits of which parity's targets are the "
            "softmax at temperature 1",
        )
        made = _at_temperature_one(loss, parameters, known, made)
    try:
        arguments = bind(parameters, roles[1:], known)
    except UnboundError as error:
        raise UndecidedError(f"{place(loss, method)}: {error}") from error
    lines = [imported(loss)]
    if loss.is_class:
        lines.append(f"loss = {made}")
        made = "loss" if method == "forward" else f"loss.{method}"
    lines += call_lines(f"return {made}", arguments)
    return Wired(tuple(lines), (place(loss, method),), remarks, TYPED if loss.is_class else frozenset())


def _at_temperature_one(loss: Definition, parameters: Sequence[Parameter], known: dict[str, str], made: str) -> str:
    """Give a loss that sharpens its teacher the temperature 1, in its call or else in its constructor."""
    if any(p.name == "teacher_temp" for p in parameters):
        known["teacher_temp"] = "1.0"
        return made
    names = [p.name for p in loss.parameters() or () if p.name in ("teacher_temp", "warmup_teacher_temp")]
    if not names:
        raise UndecidedError(
            f"{place(loss)} applies the softmax to the teacher at a temperature that cannot be given to it"
        )
    opened = made.index("(", made.index(loss.name)) + 1
    separator = "" if made[opened] == ")" else ", "
    return made[:opened] + ", ".join(f"{name}=1.0" for name in names) + separator + made[opened:]


def told(error: Exception) -> str:
    """Return why a call could not be written; a `KeyError` is a method that is not there."""
    return str(error) if isinstance(error, UndecidedError) else f"it has no method {error}"
