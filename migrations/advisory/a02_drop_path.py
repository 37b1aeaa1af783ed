"""Advisory A02: drop path is dropout, or each sample is dropped by a coin of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from migrations.engine.model import Example, Finding, Migration
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.distillation import differs, training_files
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import attribute_chain, callee, find_all

__all__ = ["ADVISORY"]

_PREFILTER = re.compile(rb"drop_?path|stochastic_?depth", re.IGNORECASE)
_NAME = re.compile(r"drop_?path|stochastic_?depth", re.IGNORECASE)
_DROPOUT = re.compile(r"(alpha_)?dropout([123]d)?", re.IGNORECASE)
_SUBSET = re.compile(rb"randperm")
_ADDED = re.compile(rb"index_add|index_copy|scatter_add")
_LIBRARIES = ("timm.", "torchvision.ops.")
_PERSON = "drop a random subset of the batch, as `drop_add_residual_stochastic_depth` does"


def find(project: Project) -> list[Finding]:
    """Return the drop paths that are dropout, and the residuals that drop each sample by itself."""
    files = list(training_files(project, _PREFILTER))
    found = [finding for file in files for finding in _dropouts(file)]
    if any(file.matches(_SUBSET) and file.matches(_ADDED) for file in project.files.values()):
        # Official code has both: subsets for lists of crops, and coins for a single tensor at a low rate.
        return found
    lookup = Lookup(project)
    return found + [finding for file in files for finding in _coins(file, lookup)]


def _dropouts(file: SourceFile) -> Iterator[Finding]:
    """Names of drop path that receive `nn.Dropout(…)`, and classes of drop path that are dropout or call it."""
    for assign in file.nodes(cst.Assign):
        named = any(_NAME.search(attribute_chain(target.target).split(".")[-1]) for target in assign.targets)
        for value in [assign.value, *_choices(assign.value)] if named else []:
            if isinstance(value, cst.Call) and _DROPOUT.fullmatch(callee(value)):
                evidence = f"`{file.code(assign)}` drops single elements of the residual, not the residual of an image"
                yield differs("A02", file, assign, evidence, _PERSON)
                break
    definitions: list[cst.ClassDef | cst.FunctionDef] = [*file.nodes(cst.ClassDef), *file.nodes(cst.FunctionDef)]
    for node in definitions:
        if not _is_drop_path(node.name.value):
            continue
        bases = [attribute_chain(base.value).split(".")[-1] for base in getattr(node, "bases", ())]
        calls = [callee(call) for call in find_all(node.body, cst.Call)]
        if any(_DROPOUT.fullmatch(name) for name in [*bases, *calls]):
            evidence = f"{node.name.value} is dropout: it drops single elements, not the residual of an image"
            yield differs("A02", file, node, evidence, _PERSON)


def _is_drop_path(name: str) -> bool:
    return re.fullmatch(r"drop_?path|stochastic_?depth", name, re.IGNORECASE) is not None


def _choices(value: cst.BaseExpression) -> list[cst.BaseExpression]:
    return [value.body, value.orelse] if isinstance(value, cst.IfExp) else []


def _coins(file: SourceFile, lookup: Lookup) -> Iterator[Finding]:
    """Classes whose residual passes through a drop path that draws a number for each sample."""
    for owner in file.nodes(cst.ClassDef):
        made = {
            attribute_chain(assign.targets[0].target): call
            for assign in find_all(owner, cst.Assign)
            for call in [assign.value, *_choices(assign.value)]
            if isinstance(call, cst.Call) and len(assign.targets) == 1 and _per_sample(file, call, lookup)
        }
        for added in find_all(owner, cst.BinaryOperation):
            call = added.right
            if isinstance(added.operator, cst.Add) and isinstance(call, cst.Call):
                name = attribute_chain(call.func)
                if name in made:
                    evidence = (
                        f"`{name}` in {owner.name.value} draws for each sample whether it is dropped, and no file of "
                        "this project draws a subset of the batch"
                    )
                    yield differs("A02", file, added, evidence, _PERSON, [file.site(made[name])])
                    break


def _per_sample(file: SourceFile, call: cst.Call, lookup: Lookup) -> bool:
    """Whether a call makes a module that draws per sample: known libraries' ones, or one whose source shows it."""
    if not _is_drop_path(callee(call)):
        return False
    if lookup.origin(file, call.func).startswith(_LIBRARIES):
        return True
    meant = lookup.called(file, call)
    if meant is None:
        return False
    # Often the module only calls a function that stands above it.
    texts = [meant.file.code(meant.node)]
    texts += [d.file.code(d.node) for d in lookup.definitions("drop_path") if isinstance(d.node, cst.FunctionDef)]
    return any(re.search(r"bernoulli|torch\.rand\(", t) and re.search(r"shape\[0\]|\.size\(0\)", t) for t in texts)


ADVISORY = Migration(
    id="A02",
    title="drop path of another kind",
    official="layers/block.py:173-202 and 274-294",
    why=(
        "Drop path leaves out a whole residual branch of an image. Official code, in training, draws as many "
        "images as are kept, computes the branch for those alone and scales what it adds by batch / kept: each step "
        "drops the same number, and saves the time. Coins per sample drop a number that varies and save nothing; "
        "dropout of elements is another regulariser altogether. Official code throws coins only for a single tensor "
        "at rates up to 0.1, not for the list of crops that training gives it."
    ),
    algebra=(
        "Batch b, rate p. Official: k = max(int(b (1 - p)), 1) images kept, residual times b / k. Coins: k is "
        "binomial with mean b (1 - p), residual times 1 / (1 - p). Dropout: the same, for each element."
    ),
    example=Example(
        before="x = x + self.drop_path(self.attn(self.norm1(x)))\n",
        after=(
            "kept = torch.randperm(b, device=x.device)[: max(int(b * (1 - rate)), 1)]\n"
            "residual = self.attn(self.norm1(x[kept]))\n"
            "x = torch.index_add(x, 0, kept, residual, alpha=b / len(kept))\n"
        ),
    ),
    person="With a rate of 0 all of these are the same, and nothing need be done.",
    checks=(),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
