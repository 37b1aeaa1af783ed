"""Advisory A03: gradients are clipped parameter by parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.distillation import differs, training_files
from migrations.flow.nodes import attribute_chain, callee, find_all, names_in, target_names

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"\bgrad\b|clip_grad")
_NORMS = ("norm", "vector_norm", "norm_")
_SCALES = ("mul_", "div_", "copy_")
_CLIPS = ("clip_grad_norm_", "clip_grad_norm")
_PERSON = "clip each submodule (backbone, dino_head, ibot_head) by its own norm: `clip_grad_norm_` of its parameters"


def find(project: Project) -> list[Finding]:
    """Return the loops over parameters that clip each one by its own norm."""
    return [
        finding
        for file in training_files(project, _PREFILTER)
        for loop in file.nodes(cst.For)
        for finding in _clips(file, loop)
    ]


def _clips(file: SourceFile, loop: cst.For) -> Iterator[Finding]:
    if not any(callee(call) in ("parameters", "named_parameters") for call in find_all(loop.iter, cst.Call)):
        return
    # Of `for name, p in model.named_parameters()` it is the last that has a gradient.
    parameter = (target_names(loop.target) or [""])[-1]
    for call in find_all(loop.body, cst.Call):
        if callee(call) in _CLIPS and call.args and _is_one(call.args[0].value, parameter):
            evidence = f"`{file.code(call)}` is called for each of `{file.code(loop.iter)}` by itself"
            yield differs("A03", file, call, evidence, _PERSON)
            return
    norms = [call for call in find_all(loop.body, cst.Call) if callee(call) in _NORMS and _of_gradient(call, parameter)]
    scaled = _scaled(loop, parameter)
    if norms and scaled is not None:
        evidence = (
            f"each of `{file.code(loop.iter)}` is scaled by its own norm `{file.code(norms[0])}`, "
            "not by that of its submodule"
        )
        yield differs("A03", file, norms[0], evidence, _PERSON, [file.site(scaled)])


def _is_one(value: cst.BaseExpression, parameter: str) -> bool:
    """Whether a value is the loop's parameter, or a list of it alone."""
    if isinstance(value, cst.List | cst.Tuple) and len(value.elements) == 1:
        value = value.elements[0].value
    return parameter != "" and attribute_chain(value) == parameter


def _of_gradient(node: cst.CSTNode, parameter: str) -> bool:
    """Whether `p.grad` (and not the weight) is read in a node."""
    chains = (attribute_chain(attribute) for attribute in find_all(node, cst.Attribute))
    return any(chain == f"{parameter}.grad" for chain in chains)


def _scaled(loop: cst.For, parameter: str) -> cst.CSTNode | None:
    """Return what changes the parameter's gradient in the loop by a factor that the loop has worked out."""
    bound = {name for assign in find_all(loop.body, cst.AssignTarget) for name in target_names(assign.target)}
    for call in find_all(loop.body, cst.Call):
        on_gradient = isinstance(call.func, cst.Attribute) and _of_gradient(call.func.value, parameter)
        if callee(call) in _SCALES and on_gradient and any(names_in(arg.value) & bound for arg in call.args):
            return call
    changes: list[cst.AugAssign | cst.Assign] = [*find_all(loop.body, cst.AugAssign), *find_all(loop.body, cst.Assign)]
    for change in changes:
        targets = [change.target] if isinstance(change, cst.AugAssign) else [t.target for t in change.targets]
        if any(_of_gradient(target, parameter) for target in targets) and names_in(change.value) & bound:
            return change
    return None


ADVISORY = Migration(
    id="A03",
    title="clipping parameter by parameter",
    official="train/train.py:252-259",
    why=(
        "Clipping by the norm of a submodule makes its step shorter and leaves its direction. Clipping each parameter "
        "by its own norm changes the direction: large gradients, those of the last layer above all, shrink against "
        "small ones. And the same limit means something else: with 150 parameters whose norms are equal, a limit of 3 "
        "each lets a whole pass that has the norm 37. DINO v1 clips so; official DINOv2 clips backbone and heads, "
        "each by its own norm."
    ),
    algebra=(
        "Official, for a submodule S: g_i <- g_i min(1, c / |(g_j) for j in S|). Fork: g_i <- g_i min(1, c / |g_i|). "
        "With n parameters of the norm c: unchanged in the fork, a factor of 1 / sqrt(n) in official code."
    ),
    example=Example(
        before=(
            "for p in model.parameters():\n"
            "    factor = clip / (p.grad.norm(2) + 1e-6)\n"
            "    if factor < 1:\n"
            "        p.grad.mul_(factor)\n"
        ),
        after=(
            "for submodule in (student.backbone, student.dino_head, student.ibot_head):\n"
            "    torch.nn.utils.clip_grad_norm_(submodule.parameters(), clip)\n"
        ),
    ),
    person="Choose the limit again (official's recipes have 3.0): that of a parameter says nothing about a submodule.",
    checks=(),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
