"""Advisory A07: Sinkhorn-Knopp runs another number of iterations than three."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.distillation import differs, training_files
from migrations.flow.nodes import attribute_chain, callee, find_all, literal

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"sinkhorn", re.IGNORECASE)
_COUNT = re.compile(r"((n|num|sinkhorn)_?)*iter(s|ations?)?", re.IGNORECASE)
_OFFICIAL = 3
_PERSON = "use 3 iterations"


def find(project: Project) -> list[Finding]:
    """Return the defaults, arguments and loops that set another number."""
    files = list(training_files(project, _PREFILTER))
    own = {f.name.value for file in files for f in file.nodes(cst.FunctionDef) if _is_sinkhorn(f)}
    calls = [(file, call) for file in files for call in file.nodes(cst.Call) if callee(call) in own]
    given = {callee(call) for _, call in calls} - {callee(call) for _, call in calls if _given(call) is None}
    found = [f for file in files for node in file.nodes(cst.FunctionDef) for f in _defined(file, node, own, given)]
    for file, call in calls:
        value = _given(call)
        if value is not None and _other(literal(value)):
            found.append(_finding(file, value, f"`{callee(call)}` is given {file.code(value)} iterations"))
    return found


def _is_sinkhorn(node: cst.FunctionDef) -> bool:
    """Whether a function of the project is named so; calls of what a library defines are not meant."""
    return "sinkhorn" in node.name.value.lower()


def _other(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value != _OFFICIAL


def _given(call: cst.Call) -> cst.BaseExpression | None:
    names = ((arg.keyword.value, arg.value) for arg in call.args if arg.keyword is not None)
    return next((value for name, value in names if _COUNT.fullmatch(name)), None)


def _defined(file: SourceFile, node: cst.FunctionDef, own: set[str], given: set[str]) -> Iterator[Finding]:
    """The default of a function's number, unless every call gives one, and loops over a literal number."""
    name = node.name.value
    if name not in own or not any(callee(call) in ("exp", "logsumexp") for call in find_all(node.body, cst.Call)):
        return
    for param in find_all(node.params, cst.Param):
        default = literal(param.default)
        if name not in given and _COUNT.fullmatch(param.name.value) and _other(default):
            yield _finding(file, param, f"`{name}` runs {default} iterations unless it is told otherwise")
    for loop in find_all(node.body, cst.For):
        call = loop.iter
        if isinstance(call, cst.Call) and attribute_chain(call.func) == "range" and len(call.args) == 1:
            number = literal(call.args[0].value)
            if _other(number):
                yield _finding(file, loop.iter, f"`{name}` runs {number} iterations")


def _finding(file: SourceFile, node: cst.CSTNode, what: str) -> Finding:
    return differs("A07", file, node, f"{what}, official runs 3", _PERSON)


ADVISORY = Migration(
    id="A07",
    title="another number of Sinkhorn iterations",
    official="loss/dino_clstoken_loss.py:35-60 and loss/ibot_patch_loss.py:62-94",
    why=(
        "Each iteration makes first the prototypes and then the samples equally heavy. Fewer leave some prototypes "
        "heavier, more make the teacher's targets flatter, so the number is part of the loss. Official code runs 3 "
        "for DINO and for iBOT, and its configuration has no setting for it."
    ),
    algebra="Q = exp(x / temp); 3 times: rows of Q to 1 / K, columns to 1 / B. Samples are exact, prototypes nearly.",
    example=Example(
        before="targets = sinkhorn_knopp(x, temp, n_iterations=5)\n",
        after="targets = sinkhorn_knopp(x, temp, n_iterations=3)\n",
    ),
    person="A loss of your own, such as one over prototypes, has no official number: suppress it there.",
    checks=(),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
