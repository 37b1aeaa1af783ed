"""Advisory A08: LayerScale, norms or biases decay."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.distillation import differs, distils, training_files
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import argument, attribute_chain, callee, find_all, literal
from migrations.flow.optimizers import default_decay

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"bias|\.parameters\(")
_LAYER_SCALE = re.compile(
    rb"layer_?scale|init_values|self\.(gamma|lambda)_?\d*\s*(:[^=\n]+)?=\s*(torch\.)?nn\.Param", re.I
)
_DECAY = re.compile(r"decay|regulari[sz]|\bwd\b", re.IGNORECASE)
_OTHERWISE = re.compile(r"\.(ndim|dim\(\)|shape|size\(\)|ndimension\(\))|isinstance\(")  # by size, or by kind of module
_SCALES = re.compile(r"gamma|\bls[12]?\b|layer_?scale|lambda", re.IGNORECASE)
_TRAINED = re.compile(r"(^|[._])(student|model|net|network|backbone|self|module)$")
_PERSON = (
    "spare parameters whose name ends with `.bias` or holds `norm` or `gamma`, as `get_params_groups_with_decay` does; "
    "`ndim <= 1` spares the same in official's networks"
)


def find(project: Project) -> list[Finding]:
    """Return the choices of spared parameters that forget LayerScale or norms, and optimizers that spare none."""
    lookup = Lookup(project)
    scales = any(file.matches(_LAYER_SCALE) for file in project.files.values())
    found: list[Finding] = []
    for file in training_files(project, _PREFILTER):
        for function in file.nodes(cst.FunctionDef):
            if file.function(function) is None:
                found += _by_name(file, function, scales)
        if distils(file):
            found += _in_one_group(file, scales, lookup)
    return found


def _by_name(file: SourceFile, function: cst.FunctionDef, scales: bool) -> Iterator[Finding]:
    """A function that chooses by the names of parameters which of them are spared, and by nothing else."""
    body = file.code(function)
    if not _DECAY.search(body) or _OTHERWISE.search(body):
        return
    texts = [(text, str(text.evaluated_value)) for text in _tested(file, function)]
    spared = " ".join(value for _, value in texts)
    biases = [text for text, value in texts if re.fullmatch(r"\.?bias", value)]
    if not biases or _settable(function):
        return
    decayed = [] if re.search(r"norm|\bln|bn", spared, re.IGNORECASE) else ["the weights of norms"]
    if scales and not _SCALES.search(spared):
        decayed.append("LayerScale")
    if decayed:
        names = ", ".join(dict.fromkeys(f"`{value}`" for _, value in texts))
        evidence = f"{function.name.value} spares parameters by name ({names}): {' and '.join(decayed)} decay"
        yield differs("A08", file, biases[0], evidence, _PERSON)


def _tested(file: SourceFile, function: cst.FunctionDef) -> list[cst.SimpleString]:
    """Return the strings that names are compared with, in a function and in the lists of names that it reads."""
    strings = [*find_all(function.body, cst.SimpleString)]
    read = {name.value for name in find_all(function.body, cst.Name)}
    for statement in file.module.body:
        for assign in find_all(statement, cst.Assign) if isinstance(statement, cst.SimpleStatementLine) else []:
            if any(attribute_chain(target.target) in read for target in assign.targets):
                strings += find_all(assign.value, cst.SimpleString)
    documented = function.body.body[0] if function.body.body else None
    doc = {id(s) for s in find_all(documented, cst.SimpleString)} if documented and _is_text(documented) else set()
    keys = {id(element.key) for element in find_all(function.body, cst.DictElement)}
    keys |= {id(s) for index in find_all(function.body, cst.Index) for s in find_all(index, cst.SimpleString)}
    return [s for s in strings if id(s) not in doc | keys]


def _is_text(statement: cst.CSTNode) -> bool:
    first = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    return isinstance(first, cst.Expr) and isinstance(first.value, cst.SimpleString)


def _settable(function: cst.FunctionDef) -> bool:
    """Whether callers hand over what else is spared, so that the function alone does not tell."""
    params = [*function.params.params, *function.params.kwonly_params]
    return any(re.search(r"skip|no_?decay|no_?weight|spared|exclud", param.name.value) for param in params)


def _in_one_group(file: SourceFile, scales: bool, lookup: Lookup) -> Iterator[Finding]:
    """Optimizers over `student.parameters()` that have a weight decay."""
    for call in file.nodes(cst.Call):
        groups = argument(call, "params", 0)
        if groups is None or not callee(call)[:1].isupper():
            continue
        for owner, own in _undivided(groups, argument(call, "weight_decay")):
            decay = default_decay(lookup, file, call) if own is None else literal(own)
            if decay in (0, None) or (own is None and decay is ...):
                continue
            forgotten = "biases, norms and LayerScale" if scales else "biases and norms"
            evidence = f"{callee(call)} holds `{owner}.parameters()` in one group: {forgotten} decay with the rest"
            yield differs("A08", file, call, evidence, _PERSON)
            break


def _undivided(
    groups: cst.BaseExpression, common: cst.BaseExpression | None
) -> Iterator[tuple[str, cst.BaseExpression | None]]:
    """Yield whose parameters make a group whole, with the group's weight decay."""
    if isinstance(groups, cst.Call) and callee(groups) == "list" and groups.args:
        yield from _undivided(groups.args[0].value, common)
    elif isinstance(groups, cst.Call) and callee(groups) == "parameters" and isinstance(groups.func, cst.Attribute):
        owner = attribute_chain(groups.func.value)
        if _TRAINED.search(owner):
            yield owner, common
    elif isinstance(groups, cst.List):
        for element in groups.elements:
            if isinstance(element.value, cst.Dict):
                keys = {
                    literal(entry.key): entry.value
                    for entry in element.value.elements
                    if isinstance(entry, cst.DictElement)
                }
                if "params" in keys:
                    yield from _undivided(keys["params"], keys.get("weight_decay", common))


ADVISORY = Migration(
    id="A08",
    title="LayerScale, norms or biases decay",
    official="utils/param_groups.py:71-72",
    why=(
        "Weight decay shrinks what it acts on. A matrix behind a norm does not care about its size, but LayerScale's "
        "gamma is a gain: decayed, it closes the residual branches, and a norm's weight does the same to what follows. "
        "Official code spares biases, norms and gamma. Code that was written before LayerScale, as DINO v1's was, "
        "tests for names that gamma does not have."
    ),
    algebra=(
        "AdamW multiplies a parameter by 1 - lr * wd in each step. At a constant lr of 1e-3 and wd of 0.04, 100,000 "
        "steps leave exp(-4) = 0.018 of what the gradient does not restore."
    ),
    example=Example(
        before='spared = name.endswith(".bias") or "norm" in name\n',
        after='spared = name.endswith(".bias") or "norm" in name or "gamma" in name\n',
    ),
    person=(
        "Which tensors a name test matches only running it tells: `python -m parity run --subject` compares wd of each."
    ),
    checks=("param_groups",),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
