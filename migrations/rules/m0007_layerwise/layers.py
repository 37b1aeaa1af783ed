"""Builders that give every parameter a learning rate by its layer, and what such a builder leaves out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import libcst as cst

from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import attribute_chain, find_all, literal

__all__ = ["Formula", "foreign_builders", "formulas", "is_dinov2", "left_out", "reads_embeddings"]

# `decay ** (n_layers + 1 - layer)`: the base is a rate of some name, and the exponent counts layers.
_FORMULA = re.compile(rb"(?:decay|lr|rate|scale)\w*[\"'\])]*\s*\*\*\s*\(\s*[^\n]{0,80}?(?:layer|depth|block)")
_FOREIGN = re.compile(rb"get_params_groups_with_decay|param_groups_layer_decay")
_DINOV2 = re.compile(rb"[Kk]o[Ll]eo|[Kk]ozachenko|register_tokens|sinkhorn_knopp")
_EMBEDDINGS = ("pos_embed", "patch_embed", "cls_token", "mask_token", "register_tokens")
_CHUNKS = re.compile(rb"block_chunks|BlockChunk|chunked_blocks")


@dataclass(frozen=True)
class Formula:
    """A power whose exponent counts layers, `decay ** (num_layers + 1 - layer_id)`.

    Attributes:
        file, power: the expression.
        function: around it; None in a module's own code.
        region: the functions that read parameters' names for it.
    """

    file: SourceFile
    power: cst.BinaryOperation
    function: cst.FunctionDef | None
    region: tuple[tuple[SourceFile, cst.FunctionDef], ...]

    @cached_property
    def names(self) -> set[str]:
        """The parts of parameters' names that the region looks for."""
        found = set()
        for file, function in self.region:
            read = {name.value for name in find_all(function, cst.Name)}
            # Names may be listed in a constant of the module.
            lines = [line for line in file.module.body if isinstance(line, cst.SimpleStatementLine)]
            listed = [small for line in lines for small in line.body if isinstance(small, cst.Assign)]
            constants = [one for one in listed if attribute_chain(one.targets[0].target) in read]
            for node in (n for tree in (function, *constants) for n in find_all(tree, cst.SimpleString)):
                text = literal(node)
                if isinstance(text, str) and not isinstance(file.parent(node), cst.Expr):
                    found.add(text.strip("."))
        return found - {""}

    @cached_property
    def code(self) -> str:
        """The region's text."""
        return "\n".join(file.code(function) for file, function in self.region)


def is_dinov2(project: Project) -> bool:
    """Whether a project holds what DINOv2 has and DINO and iBOT have not."""
    return any(_DINOV2.search(file.data) for file in project.files.values())


def formulas(lookup: Lookup) -> list[Formula]:
    """Return the layer-wise powers of a project."""
    found = []
    for file in lookup.project.matching(_FORMULA):
        for power in file.nodes(cst.BinaryOperation):
            if isinstance(power.operator, cst.Power) and _counts_layers(file, power):
                function = file.function(power)
                found.append(Formula(file, power, function, _region(lookup, file, function)))
    return [one for one in found if one.region]


def foreign_builders(lookup: Lookup) -> list[tuple[SourceFile, cst.Call]]:
    """Return calls of layer-wise builders of other packages: official's, `port`'s, timm's."""
    found = []
    for file in lookup.project.matching(_FOREIGN):
        for call in file.nodes(cst.Call):
            parts = lookup.origin(file, call.func).split(".")
            package, name = parts[0], parts[-1]
            known = name in ("get_params_groups_with_decay", "param_groups_layer_decay")
            if known and package in ("port", "dinov2", "dinov3", "timm") and lookup.called(file, call) is None:
                found.append((file, call))
    return found


def left_out(formula: Formula, project: Project) -> list[str]:
    """Return how a builder departs from official's, each as a few words; empty where it reads no names."""
    names, code, found = formula.names, formula.code, []
    used = _embeddings(names)
    if not used:
        return []
    elsewhere = _elsewhere(formula, project)
    absent = [one for one in _EMBEDDINGS if one not in used and any(one.encode() in data for data in elsewhere)]
    found += [f"`{one}` is not among the embeddings of layer 0" for one in absent]
    if not _patch_factor(formula):
        found.append("the patch embedding has no factor of its own (official: 0.2 in every recipe)")
    spares = any("norm" in name for name in names) and "ndim" not in code and ".shape" not in code
    if spares and "gamma" not in names and any(b"gamma" in data for data in elsewhere):
        found.append("LayerScale's `gamma` decays")
    chunked = any(_CHUNKS.search(data) for data in elsewhere)
    if chunked and "chunk" not in code and any("blocks" in name for name in names):
        found.append("in chunked blocks the number after `blocks.` is the chunk's, not the layer's")
    return found


def reads_embeddings(formula: Formula) -> bool:
    """Whether a builder knows embeddings by their names."""
    return bool(_embeddings(formula.names))


def _embeddings(names: set[str]) -> list[str]:
    return [one for one in _EMBEDDINGS if any(part in one and len(part) > 3 for part in names)]


def _elsewhere(formula: Formula, project: Project) -> list[bytes]:
    """Return the project's code but for the builder's."""
    texts = {file.path: file.data for file in project.files.values()}
    for file, function in formula.region:
        texts[file.path] = texts[file.path].replace(file.code(function).encode(), b"")
    return list(texts.values())


def _counts_layers(file: SourceFile, power: cst.BinaryOperation) -> bool:
    exponent = power.right
    counted = isinstance(exponent, cst.BinaryOperation) and isinstance(exponent.operator, cst.Subtract)
    return counted and _FORMULA.search(file.code(power).encode()) is not None


def _region(
    lookup: Lookup, file: SourceFile, function: cst.FunctionDef | None
) -> tuple[tuple[SourceFile, cst.FunctionDef], ...]:
    """Return the functions around a formula: its own, its callers, and those of the file that read layers' names."""
    found: list[tuple[SourceFile, cst.FunctionDef]] = [(file, function)] if function is not None else []
    if function is not None and "named_parameters" not in file.code(function):
        meant = [d for d in lookup.definitions(function.name.value) if d.node is function]
        for caller, call in lookup.calls_of(meant[0]) if meant else []:
            around = caller.function(call)
            if around is not None:
                found.append((caller, around))
    found += [(file, one) for one in file.nodes(cst.FunctionDef) if "blocks" in _strings(one)]
    unique = tuple({id(one): (where, one) for where, one in found}.values())
    reads = any("named_parameters" in where.code(one) or "blocks" in _strings(one) for where, one in unique)
    return unique if reads else ()


def _strings(function: cst.FunctionDef) -> str:
    texts = [literal(node) for node in find_all(function, cst.SimpleString)]
    return " ".join(text for text in texts if isinstance(text, str) and len(text) < 40)


def _patch_factor(formula: Formula) -> bool:
    """Whether something is multiplied where a name is the patch embedding's."""
    for file, function in formula.region:
        conditions: list[cst.If | cst.IfExp] = [*find_all(function, cst.If), *find_all(function, cst.IfExp)]
        for one in conditions:
            if "patch_embed" in file.code(one.test) and "*" in file.code(one.body):
                return True
    return False
