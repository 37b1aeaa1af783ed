"""Calls of the student and of the teacher: what each is given, and with which masks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import libcst as cst

from migrations.engine.source import SourceFile
from migrations.flow.nodes import literal, names_in
from migrations.flow.views import Part, parts

__all__ = ["PREFILTER", "Forward", "Step", "steps"]

PREFILTER = re.compile(rb"(?i)student")

# A step of a network, not a question to it, and not one of its heads or losses alone.
_NO_FORWARD = re.compile(
    r"^(train|eval|parameters|named_\w+|modules|children|state_dict|load_\w+|to|cuda|cpu|half|float|zero_grad|no_sync|"
    r"requires_grad_?|apply|items|keys|values|get|update|compile|register_\w+|set_\w+|clip_\w+|unwrap\w*|append|"
    r"add_\w+|named|log\w*|prepare\w*|step|backward|save\w*|chunk|view|reshape|unbind|split|copy_?|mean|std|size)$"
)
_HEAD = re.compile(
    r"head|loss|predictor|projector|proto|optim|param|group|embed|token|feat|logit|output|config|cfg|schedul"
)
_DEFINES = re.compile(r"^(get|build|make|create|update|load|init|setup|compute|wrap|freeze|copy|ema)_")


@dataclass(frozen=True)
class Forward:
    """One call of a network.

    Attributes:
        call: the call.
        given: what its first argument holds.
        masks: the mask argument where it is given one that is not None; else None.
        keyword: under which it is given; empty for a place.
    """

    call: cst.Call
    given: tuple[Part, ...]
    masks: cst.BaseExpression | None
    keyword: str = ""

    @property
    def images(self) -> cst.BaseExpression:
        """The first argument."""
        return self.call.args[0].value


@dataclass(frozen=True)
class Step:
    """A function that calls the student.

    Attributes:
        file, function: the function.
        student, teacher: their calls, in order.
    """

    file: SourceFile
    function: cst.FunctionDef
    student: tuple[Forward, ...]
    teacher: tuple[Forward, ...]

    @property
    def masked(self) -> list[Forward]:
        """The student's calls with masks."""
        return [forward for forward in self.student if forward.masks is not None]

    @property
    def unmasked(self) -> list[Forward]:
        """The student's calls without."""
        return [forward for forward in self.student if forward.masks is None]

    def together(self, one: Forward, other: Forward) -> bool:
        """Whether two calls run in one pass through the function, not in two branches of a condition."""
        left, right = ({id(n) for n in self.file.ancestors(f.call)} for f in (one, other))
        for around in self.file.ancestors(one.call):
            if isinstance(around, cst.If) and id(around) in right:
                in_body = [_holds(around.body, f.call, self.file) for f in (one, other)]
                in_else = [around.orelse is not None and _holds(around.orelse, f.call, self.file) for f in (one, other)]
                if (in_body[0] and in_else[1]) or (in_body[1] and in_else[0]):
                    return False
        # `if …: return student(a)` and, below it, `student(b)`: one of them runs.
        first, second = sorted((one, other), key=lambda f: self.file.span(f.call))
        for around in self.file.ancestors(first.call):
            if isinstance(around, cst.If) and _leaves(around.body) and _holds(around.body, first.call, self.file):
                return _holds(around, second.call, self.file)
        return bool(left and right)


def steps(file: SourceFile) -> list[Step]:
    """Return the functions of a file that call a student; calls in nested functions belong to the outermost."""
    by_function: dict[int, tuple[cst.FunctionDef, list[Forward], list[Forward]]] = {}
    defined = {node.name.value for node in file.nodes(cst.FunctionDef)}
    defined |= {node.name.value for node in file.nodes(cst.ClassDef)}
    for call in file.nodes(cst.Call):
        role = _role(call, defined)
        functions = [n for n in file.ancestors(call) if isinstance(n, cst.FunctionDef)]
        if not role or not functions:
            continue
        function = functions[-1]
        _, student, teacher = by_function.setdefault(id(function), (function, [], []))
        (student if role == "student" else teacher).append(_forward(file, call))
    return [Step(file, f, tuple(s), tuple(t)) for f, s, t in by_function.values() if s]


def _role(call: cst.Call, defined: set[str]) -> str:
    """Return `student` or `teacher` for a call of either network; empty for other calls."""
    chain = _components(call.func)
    if not chain or not call.args or call.args[0].keyword is not None or call.args[0].star:
        return ""
    last = chain[-1].lower()
    if _NO_FORWARD.match(last) or any(_HEAD.search(part.lower()) for part in chain):
        return ""
    if len(chain) == 1 and (chain[0] in defined or _DEFINES.match(chain[0]) or chain[0][:1].isupper()):
        return ""
    if len(chain) > 1 and _DEFINES.match(last):
        return ""
    for role in ("student", "teacher"):
        if any(role in part.lower() for part in chain):
            return role
    return ""


def _components(func: cst.BaseExpression) -> list[str]:
    """Return `["self", "student", "backbone"]` for `self.student.backbone` and for `self.student["backbone"]`."""
    parts_: list[str] = []
    while True:
        if isinstance(func, cst.Attribute):
            parts_.append(func.attr.value)
            func = func.value
        elif isinstance(func, cst.Subscript) and len(func.slice) == 1 and isinstance(func.slice[0].slice, cst.Index):
            key = literal(func.slice[0].slice.value)
            if not isinstance(key, str):
                return []
            parts_.append(key)
            func = func.value
        else:
            break
    return [func.value, *reversed(parts_)] if isinstance(func, cst.Name) else []


def _forward(file: SourceFile, call: cst.Call) -> Forward:
    given = tuple(parts(file, call.args[0].value))
    for arg in call.args[1:]:
        named = arg.keyword.value if arg.keyword is not None else ""
        about_masks = "mask" in named.lower() if named else any("mask" in n.lower() for n in names_in(arg.value))
        if about_masks and not _is_none(arg.value):
            return Forward(call, given, arg.value, named)
    return Forward(call, given, None)


def _is_none(node: cst.BaseExpression) -> bool:
    """`None`, or a list of nothing else, `[None] * n` too."""
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Multiply):
        return any(isinstance(side, cst.List) and _is_none(side) for side in (node.left, node.right))
    value = literal(node)
    return value is None or (isinstance(value, list | tuple) and all(item is None for item in value))


def _leaves(body: cst.BaseSuite) -> bool:
    """Whether a block ends by leaving the function or the round of its loop."""
    last = body.body[-1] if body.body else None
    small = last.body[-1] if isinstance(last, cst.SimpleStatementLine) else last
    return isinstance(small, cst.Return | cst.Raise | cst.Continue)


def _holds(node: cst.CSTNode, part: cst.CSTNode, file: SourceFile) -> bool:
    (start, end), place = file.span(node), file.span(part)[0]
    return start <= place < end
