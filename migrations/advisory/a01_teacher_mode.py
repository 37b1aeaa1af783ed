"""Advisory A01: the teacher is not in evaluation mode."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.bindings import bindings
from migrations.flow.distillation import differs, training_files
from migrations.flow.nodes import argument, attribute_chain, callee, find_all, literal

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"teacher", re.IGNORECASE)
_RATES = ("drop_path_rate", "drop_path", "drop_rate")
_PERSON = "call `teacher.eval()`, and again after each `.train()` of a module that holds the teacher"


def find(project: Project) -> list[Finding]:
    """Return the places that put a teacher in training mode."""
    files = list(training_files(project, _PREFILTER))
    found = [finding for file in files for finding in _trained(file)]
    if not any(callee(call) == "eval" or _mode(call) is False for file in files for call in file.nodes(cst.Call)):
        found += [finding for file in files for finding in _dropping(file)]
    for file in files:
        for node in file.nodes(cst.ClassDef):
            found += _undone(file, node, files)
    return found


def _mode(call: cst.Call) -> bool | None:
    """Return the mode that a call sets: true for `x.train()`; None where it sets none or the source does not tell."""
    if not isinstance(call.func, cst.Attribute) or callee(call) not in ("train", "eval"):
        return None
    if callee(call) == "eval":
        return False if not call.args else None
    if not call.args:
        return True
    mode = literal(argument(call, "mode", 0))
    return mode if len(call.args) == 1 and isinstance(mode, bool) else None


def _receiver(call: cst.Call) -> str:
    return attribute_chain(call.func.value) if isinstance(call.func, cst.Attribute) else ""


def _is_teacher(chain: str) -> bool:
    parts = [part for part in chain.lower().split(".") if part not in ("module", "backbone", "model", "_orig_mod")]
    return bool(parts) and "teacher" in parts[-1] and "student" not in parts[-1]


def _trained(file: SourceFile) -> Iterator[Finding]:
    """Calls of `.train()` on a teacher that no `.eval()` of the same name follows in the same function."""
    calls = [(call, _receiver(call), _mode(call)) for call in file.nodes(cst.Call)]
    for call, chain, mode in calls:
        if mode is not True or not _is_teacher(chain):
            continue
        later = [
            other
            for other, name, its in calls
            if name == chain and its is False and file.function(other) is file.function(call)
        ]
        if not any(file.span(other) > file.span(call) for other in later):
            evidence = f"`{file.code(call)}` puts the teacher in training mode, and nothing below takes it back"
            yield differs("A01", file, call, evidence, _PERSON)


def _dropping(file: SourceFile) -> Iterator[Finding]:
    """Teachers that are built with a drop path rate; the caller has seen that nothing leaves training mode."""
    for assign in file.nodes(cst.Assign):
        value = assign.value
        if not isinstance(value, cst.Call) or not any(_is_teacher(attribute_chain(t.target)) for t in assign.targets):
            continue
        for arg in value.args:
            if arg.keyword is not None and arg.keyword.value in _RATES and literal(arg.value) not in (0, None):
                evidence = f"the teacher is built with `{file.code(arg)}`, and nothing leaves training mode"
                yield differs("A01", file, assign, evidence, _PERSON)


def _undone(file: SourceFile, owner: cst.ClassDef, files: list[SourceFile]) -> Iterator[Finding]:
    """Calls of `.train()` on a module that put its teacher, once in evaluation mode, back into training mode."""
    methods = {node.name.value: node for node in owner.body.body if isinstance(node, cst.FunctionDef)}
    made = methods.get("__init__")
    if made is None or "train" in methods or not owner.bases:
        return
    evals = [call for call in find_all(made, cst.Call) if _mode(call) is False and _is_teacher(_receiver(call))]
    everywhere = [call for call in find_all(owner, cst.Call) if callee(call) == "eval"]
    held = [call for call in evals if _receiver(call).startswith("self.")]
    if not held or len(everywhere) != len(evals):
        return
    for other in files:
        # A later `.eval()` of a teacher, wherever it stands, may be what keeps it there.
        if any(_mode(c) is False and _is_teacher(_receiver(c)) and c not in evals for c in other.nodes(cst.Call)):
            return
    for other in files:
        for call in other.nodes(cst.Call):
            if _mode(call) is True and _holds(other, call, owner.name.value):
                evidence = (
                    f"`{other.code(call)}` reaches the teacher inside of {owner.name.value} too, which is put in "
                    "evaluation mode only once, when it is made"
                )
                yield differs("A01", other, call, evidence, _PERSON, [file.site(held[0])])


def _holds(file: SourceFile, call: cst.Call, owner: str) -> bool:
    """Whether `x.train()` is called on what this scope made as `x = Owner(…)` and as nothing else."""
    scope = file.function(call) or file.module
    values = [binding.value for binding in bindings(scope) if binding.name == _receiver(call)]
    made = [value for value in values if value is not None and any(callee(c) == owner for c in _calls(value))]
    return bool(values) and len(made) == len(values)


def _calls(value: cst.BaseExpression) -> Iterator[cst.Call]:
    """Yield a call and the calls on whose result it is called: both of `Owner(x).to(y)`."""
    while isinstance(value, cst.Call):
        yield value
        if not isinstance(value.func, cst.Attribute):
            return
        value = value.func.value


ADVISORY = Migration(
    id="A01",
    title="teacher in training mode",
    official="train/ssl_meta_arch.py:367-369",
    why=(
        "In training mode dropout and drop path make the teacher's targets random, and batch norm uses and moves "
        "statistics of the batch. PyTorch's `.train()` goes down into every submodule, so a model that holds its "
        "teacher has to take it out again each time; official code does so by overriding `train`."
    ),
    algebra="Official: train() = super().train(); teacher.eval(). With drop path p: targets f(x, noise), not f(x).",
    example=Example(before="model.train()\nteacher.train()\n", after="model.train()\nteacher.eval()\n"),
    person="A teacher without dropout, drop path and batch norm gives the same numbers in both modes.",
    checks=(),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
