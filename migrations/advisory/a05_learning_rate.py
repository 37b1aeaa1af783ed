"""Advisory A05: the learning rate grows linearly with the batch, by batch / 256."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.bindings import resolve
from migrations.flow.distillation import differs, distils, training_files
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import literal

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"\b256\b")
_RATE = re.compile(r"(^|_|\.)(lr|lrs|learning_rates?|base_lr|blr)(_|\W|$)")
_BATCH = re.compile(r"batch|world_size|\bbs\b")
_ROOT = re.compile(r"sqrt|\*\*\s*0?\.5")
_PERSON = "scale by sqrt(batch / 1024), the batch of all GPUs together, and choose the base rate for 1024 images"


def find(project: Project) -> list[Finding]:
    """Return the places of a training that scale a learning rate by batch / 256."""
    lookup = Lookup(project)
    found: list[Finding] = []
    for file in training_files(project, _PREFILTER):
        for quotient in file.nodes(cst.BinaryOperation):
            if isinstance(quotient.operator, cst.Divide | cst.FloorDivide) and _value(file, quotient.right) == 256:
                found += _scaled(file, quotient, lookup)
    return found


def _value(file: SourceFile, node: cst.BaseExpression) -> object:
    """Return a literal, or that of the only assignment of a name."""
    if isinstance(node, cst.Name):
        values = [binding.value for binding in resolve(file, node) if binding.kind == "assign"]
        return literal(values[0]) if len(values) == 1 else ...
    return literal(node)


def _scaled(file: SourceFile, quotient: cst.BinaryOperation, lookup: Lookup) -> Iterator[Finding]:
    statement = file.statement(quotient)
    if not isinstance(statement, cst.SimpleStatementLine) or not _of_training(file, quotient, lookup):
        return
    function = file.function(quotient)
    if function is not None and _ROOT.search(file.code(function)):
        return  # a setting chooses among rules, and the source does not tell which
    whole = _around(file, quotient)
    code = file.code(whole)
    if _ROOT.search(code) or not _BATCH.search(file.code(quotient) + code):
        return
    if _RATE.search(code) or _RATE.search(_target(file, whole)):
        evidence = f"the learning rate grows linearly with the batch: `{' '.join(code.split())}`"
        yield differs("A05", file, quotient, evidence, _PERSON)


def _around(file: SourceFile, quotient: cst.BinaryOperation) -> cst.BaseExpression:
    """Return the largest product, quotient, root or power that a quotient is part of."""
    whole: cst.BaseExpression = quotient
    for node in file.ancestors(quotient):
        if isinstance(node, cst.Arg):
            continue
        root = isinstance(node, cst.Call) and _ROOT.search(file.code(node.func)) is not None
        if not root and not isinstance(node, cst.BinaryOperation):
            break
        whole = node  # type: ignore[assignment] # a call or an operation, which are expressions
    return whole


def _target(file: SourceFile, whole: cst.BaseExpression) -> str:
    """Return what receives a value: the target of an assignment, or the keyword of an argument."""
    parent = file.parent(whole)
    if isinstance(parent, cst.Assign):
        return " ".join(file.code(target.target) for target in parent.targets)
    if isinstance(parent, cst.AnnAssign | cst.AugAssign):
        return file.code(parent.target)
    return parent.keyword.value if isinstance(parent, cst.Arg) and parent.keyword is not None else ""


def _of_training(file: SourceFile, node: cst.CSTNode, lookup: Lookup) -> bool:
    """Whether a file trains a student by a teacher, or one that does calls the function around a node."""
    if distils(file):
        return True
    function = file.function(node)
    if function is None:
        return False
    around = [d for d in lookup.definitions(function.name.value) if d.node is function]
    return any(distils(caller) for definition in around for caller, _ in lookup.calls_of(definition))


ADVISORY = Migration(
    id="A05",
    title="learning rate linear in the batch",
    official="utils/config.py:21-29",
    why=(
        "AdamW divides each step by the size of the gradients, so noise that shrinks with the root of the batch asks "
        "for a rate that grows with the root. Official code scales by sqrt(batch / 1024); DINO v1 and iBOT by "
        "batch / 256. The two meet at a single batch size, so a base rate that was right for one batch is wrong for "
        "every other one."
    ),
    algebra=(
        "Official: lr = base * sqrt(B / 1024). Linear: lr = base * B / 256. With official's base of 0.004 and "
        "B = 2048: 0.0057, and 0.032 by the linear rule."
    ),
    example=Example(
        before="lr = args.lr * (args.batch_size_per_gpu * world_size) / 256.0\n",
        after="lr = args.lr * math.sqrt(args.batch_size_per_gpu * world_size / 1024.0)\n",
    ),
    person="The base rate is another number then: at batch B the same rate needs base * B / 256 / sqrt(B / 1024).",
    checks=(),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
