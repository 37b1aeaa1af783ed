"""Advisory A04: KoLeo is averaged over crops, or computed on what a head returns."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.distillation import differs, sources, training_files
from migrations.flow.nodes import argument, attribute_chain, callee, find_all, literal, names_in, target_names

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"koleo", re.IGNORECASE)
_HEAD = re.compile(r"(^|_)(head|classhead|projector|predictor)s?$", re.IGNORECASE)
_SUM = "sum the loss of the two global crops' backbone CLS tokens: `sum(koleo(p) for p in cls_tokens.chunk(2))`"


def find(project: Project) -> list[Finding]:
    """Return the calls of KoLeo that are averaged, and those on the outputs of a head."""
    found: list[Finding] = []
    for file in training_files(project, _PREFILTER):
        called = [call for call in file.nodes(cst.Call) if _is_koleo(call)]
        averaged: set[int] = set()
        for call in called:
            found += _averaged(file, call, averaged)
            found += _on_head(file, call)
    return found


def _is_koleo(call: cst.Call) -> bool:
    """Whether a call computes the loss: `koleo_loss(x)`, not `KoLeoLoss()` nor a log of it."""
    name = callee(call)
    return "koleo" in name.lower() and not name[:1].isupper() and bool(call.args) and "weight" not in name.lower()


def _averaged(file: SourceFile, call: cst.Call, seen: set[int]) -> Iterator[Finding]:
    """The expression around a call that divides several of them by their number, or takes their mean."""
    assign = next((node for node in file.ancestors(call) if isinstance(node, cst.Assign)), None)
    if assign is not None and all(isinstance(target.target, cst.Subscript) for target in assign.targets):
        return  # an entry of a dictionary of losses is what is shown, not what is optimised
    if assign is not None and _scaled_again(file, assign):
        return
    inner: cst.CSTNode = call
    for around in file.ancestors(call):
        if isinstance(around, cst.BaseStatement):
            return
        many = _several(file, inner, call)
        how = _mean(file, around, inner) if many else ""
        if how and id(around) not in seen:
            seen.add(id(around))
            evidence = f"KoLeo is averaged over crops by `{how}`; official sums it"
            yield differs("A04", file, around, evidence, _SUM)
            return
        inner = around


def _scaled_again(file: SourceFile, assign: cst.Assign) -> bool:
    """Whether the mean is multiplied by a number of crops or a scale further below, as in DINOv3."""
    names = [name for target in assign.targets for name in target_names(target.target)]
    scope = file.function(assign) or file.module
    products = [p for p in find_all(scope, cst.BinaryOperation) if isinstance(p.operator, cst.Multiply)]
    return any(
        names_in(product) & set(names) and re.search(r"scale|crops|\b2(\.0?)?\b", file.code(product))
        for product in products
    )


def _several(file: SourceFile, node: cst.CSTNode, call: cst.Call) -> bool:
    """Whether a node holds the call in a comprehension, or another call of the same loss."""
    looped = any(call in find_all(comp, cst.Call) for comp in _comprehensions(node))
    return looped or sum(_is_koleo(other) for other in find_all(node, cst.Call)) > 1


def _comprehensions(node: cst.CSTNode) -> list[cst.CSTNode]:
    return [*find_all(node, cst.GeneratorExp), *find_all(node, cst.ListComp)]


def _mean(file: SourceFile, around: cst.CSTNode, inner: cst.CSTNode) -> str:
    """Return how a node takes the mean of what it holds, as text; empty where it does not."""
    if isinstance(around, cst.BinaryOperation) and around.left is inner:
        right = around.right
        counts = literal(right) == 2 or (isinstance(right, cst.Call) and callee(right) == "len")
        counts = counts or any(re.search(r"(^|_)n(um|_)|crops", name) for name in names_in(right))
        if isinstance(around.operator, cst.Divide) and counts:
            return f"/ {file.code(right)}"
        if isinstance(around.operator, cst.Multiply) and literal(right) == 0.5:
            return "* 0.5"
    if isinstance(around, cst.Call):
        on_result = isinstance(around.func, cst.Attribute) and around.func.attr.value == "mean"
        given = any(arg is inner or arg.value is inner for arg in around.args)
        if on_result or (given and callee(around) in ("mean", "fmean")):
            return "mean"
    return ""


def _on_head(file: SourceFile, call: cst.Call) -> Iterator[Finding]:
    value = argument(call, "student_output", 0)
    if value is None:
        return
    for part in sources(file, value):
        if isinstance(part, cst.Call) and (name := attribute_chain(part.func)) and _HEAD.search(name.split(".")[-1]):
            evidence = f"KoLeo is given what `{name}` returns, official gives it the backbone's CLS tokens"
            yield differs("A04", file, call, evidence, _SUM, [file.site(part)])
            return


ADVISORY = Migration(
    id="A04",
    title="KoLeo averaged, or on head outputs",
    official="train/ssl_meta_arch.py:311-317",
    why=(
        "KoLeo pushes the features of different images apart. Official code sums it over the two global crops, each "
        "by itself, on the student's CLS tokens as the backbone returns them: those are the features that are used "
        "later. On the prototype scores of a head it spreads what is thrown away; averaged, the same weight counts "
        "half. The logged value is halved in official code too, the optimised one is not."
    ),
    algebra="Official: w (K(crop 1) + K(crop 2)). Averaged: w (K(crop 1) + K(crop 2)) / 2, so w = 0.1 acts as 0.05.",
    example=Example(
        before="loss += 0.1 * sum(koleo(p) for p in head(cls_tokens).chunk(2)) / 2\n",
        after="loss += 0.1 * sum(koleo(p) for p in cls_tokens.chunk(2))\n",
    ),
    person="If the weight was doubled on purpose, the mean is official's sum: nothing need be done.",
    checks=(),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
