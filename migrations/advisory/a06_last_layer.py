"""Advisory A06: the last layer is frozen by deleting its gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.engine.tree import walk
from migrations.flow.distillation import differs, training_files
from migrations.flow.nodes import attribute_chain, callee, find_all

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"last_layer")
_PERSON = (
    "give the last layer's groups `is_last_layer`, set their lr to 0 while it is frozen, and leave the gradients alone"
)


def find(project: Project) -> list[Finding]:
    """Return the statements that delete or zero the gradients of a last layer."""
    return [finding for file in training_files(project, _PREFILTER) for finding in _deleted(file)]


def _deleted(file: SourceFile) -> Iterator[Finding]:
    for assign in file.nodes(cst.Assign):
        on_gradient = any(attribute_chain(target.target).endswith(".grad") for target in assign.targets)
        empty = attribute_chain(assign.value) == "None" or (
            isinstance(assign.value, cst.Call) and callee(assign.value) == "zeros_like"
        )
        if on_gradient and empty and _of_last_layer(file, assign):
            yield _finding(file, assign)
    for call in file.nodes(cst.Call):
        owner = attribute_chain(call.func.value) if isinstance(call.func, cst.Attribute) else ""
        on_gradient = owner.endswith((".grad", ".grad.data"))
        if callee(call) == "zero_" and on_gradient and _of_last_layer(file, call):
            yield _finding(file, call)


def _finding(file: SourceFile, node: cst.CSTNode) -> Finding:
    evidence = f"`{file.code(node)}` freezes the last layer through its gradients, official through its learning rate"
    return differs("A06", file, node, evidence, _PERSON)


def _of_last_layer(file: SourceFile, node: cst.CSTNode) -> bool:
    """Whether a name, a condition or a loop around a node speaks of the last layer."""
    if "last_layer" in file.code(node):
        return True
    inner: cst.CSTNode = node
    for around in file.ancestors(node):
        if isinstance(around, cst.FunctionDef):
            return False
        # In `else` the condition does not hold: what it speaks of is what is left alone there.
        if isinstance(around, cst.If) and inner is around.body and _speaks(around.test):
            return True
        if isinstance(around, cst.For) and "last_layer" in file.code(around.iter):
            return True
        inner = around
    return False


def _speaks(test: cst.BaseExpression) -> bool:
    """Whether a condition asks for the last layer and denies nothing."""
    denies = any(isinstance(node, cst.Not | cst.NotIn) for node in walk(test))
    texts = [text.value for text in find_all(test, cst.SimpleString)]
    return not denies and any("last_layer" in text for text in texts)


ADVISORY = Migration(
    id="A06",
    title="last layer frozen by deleting gradients",
    official="train/train.py:98-100 and 113-119",
    why=(
        "Without a gradient the optimizer passes a parameter by: its moments stay empty, it is not decayed, and the "
        "norm that clips the others does not count it. Official code sets the learning rate of the `is_last_layer` "
        "groups to 0 instead. The weights stand still just so, but Adam's moments are warm at the first step that "
        "moves them, and the clipping norm is the same before and after."
    ),
    algebra=(
        "Official, frozen: m and v follow the gradients, step = 0 * m / sqrt(v). Deleted: m = v = 0, and Adam's first "
        "step after the freeze has the size lr for every weight, whatever its gradient."
    ),
    example=Example(
        before='for name, p in model.named_parameters():\n    if "last_layer" in name:\n        p.grad = None\n',
        after=(
            "for group in optimizer.param_groups:\n"
            '    rate = 0.0 if group["is_last_layer"] and epoch < freeze_epochs else lr\n'
            '    group["lr"] = rate * group["lr_multiplier"]\n'
        ),
    ),
    person="With an epoch or two of freezing the difference is small; it counts where the freeze is long.",
    checks=(),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
