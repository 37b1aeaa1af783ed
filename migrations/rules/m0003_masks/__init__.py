"""Difference 3: block masks over all global crops instead of single tokens."""

from __future__ import annotations

import re

import libcst as cst

from migrations.engine.edits import replace
from migrations.engine.model import Example, Finding, Level, Migration, State
from migrations.engine.project import Project
from migrations.engine.source import SourceFile
from migrations.flow.calls import Calls
from migrations.flow.nodes import attribute_chain, callee, find_all
from migrations.rules.m0003_masks.blocks import Generator, generators, judge
from migrations.rules.m0003_masks.draws import Draw, draws
from migrations.rules.m0003_masks.files import linked_paths
from migrations.rules.m0003_masks.rewrite import swap_class, swap_draw

__all__ = ["MIGRATION", "find"]

_PREFILTER = re.compile(rb"(?i)mask|bernoulli|\brand")
_ROWS = "draw the masks once for all 2B global crops, not for one crop or for the images"
_FLAGS = (
    "decide the smallest and largest ratio and the share of masked rows (official 0.1, 0.5 and 0.5) and make them "
    "flags; a fixed ratio has no counterpart and is not converted"
)


def find(project: Project) -> list[Finding]:
    """Return every generator of masks: blocks wherever they are, other draws where a student takes them."""
    found = [_block(one) for file in project.matching(_PREFILTER, wanted=_may_hold_blocks) for one in generators(file)]
    for file in project.matching(_PREFILTER, wanted=_may_name_official):
        found += _officials(file) + _bins(file)
    if paths := linked_paths(project):
        calls = Calls(project, list(project.matching(_PREFILTER, wanted=lambda file: file.path in paths)))
        found += [_draw(one) for one in draws(calls)] + _per_crop(calls)
    looked = "no generator of masks was found whose masks a student takes beside a teacher"
    return found or [Finding("0003", State.UNKNOWN, looked)]


def _may_hold_blocks(file: SourceFile) -> bool:
    return file.data.count(b"sqrt") >= 2 and (b"randint" in file.data or b"randrange" in file.data)


def _may_name_official(file: SourceFile) -> bool:
    return any(
        word in file.data for word in (b"np.linspace", b"numpy.linspace", b"MaskingGenerator", b"draw_block_masks")
    )


def _block(one: Generator) -> Finding:
    state, evidence = judge(one)
    site = one.file.site(one.owner if one.owner is not None else one.function)
    if state is not State.DIVERGED:
        person = "" if state is State.ALIGNED else f"compare with `port.data.masking.MaskingGenerator`; {_ROWS}"
        return Finding("0003", state, evidence, site, person=person)
    edits = tuple(swap_class(one))
    level = Level.UNSAFE if edits else Level.MANUAL
    by_hand = "" if edits else "take `port.data.masking.MaskingGenerator` in its place; "
    return Finding("0003", state, evidence, site, level, edits, f"{by_hand}{_ROWS}")


def _draw(one: Draw) -> Finding:
    edits, assumed = swap_draw(one)
    if one.kind == "bernoulli":
        how = "every token is drawn on its own, so masks are scattered and all rows have one ratio"
    else:
        how = "tokens are picked by a random permutation, so masks are scattered and all rows have one ratio"
    evidence = f"{how}; official masks rectangles, 10 to 50 percent of half of the rows (taken at {one.user})"
    by_hand = "" if edits else "call `port.data.block_masks.draw_block_masks` in its place; "
    person = "; ".join(part for part in (by_hand.removesuffix("; "), assumed, _ROWS, _FLAGS) if part)
    level = Level.UNSAFE if edits else Level.MANUAL
    return Finding("0003", State.DIVERGED, evidence, one.file.site(one.node), level, tuple(edits), person)


def _officials(file: SourceFile) -> list[Finding]:
    """Return the uses of official's generator, or of `port`'s, by what a file imports."""
    names: dict[str, str] = {}
    for statement in file.nodes(cst.ImportFrom):
        module = attribute_chain(statement.module) if statement.module is not None else ""
        if module.startswith(("port.data", "dinov2.data")) and not isinstance(statement.names, cst.ImportStar):
            for alias in statement.names:
                local = alias.asname.name if alias.asname is not None else alias.name
                if attribute_chain(alias.name) in ("MaskingGenerator", "draw_block_masks") and isinstance(
                    local, cst.Name
                ):
                    names[local.value] = module
    uses: list[cst.CSTNode] = [c for c in file.nodes(cst.Call) if isinstance(c.func, cst.Name) and callee(c) in names]
    uses += [c for c in file.nodes(cst.ClassDef) if any(attribute_chain(base.value) in names for base in c.bases)]
    return [Finding("0003", State.ALIGNED, "masks are official's blocks", file.site(node)) for node in uses]


def _bins(file: SourceFile) -> list[Finding]:
    """Return the ratios that are binned in double precision."""
    found = []
    for call in file.nodes(cst.Call):
        function = file.function(call)
        numpy = attribute_chain(call.func) in ("np.linspace", "numpy.linspace")
        if not numpy or function is None or "mask" not in file.code(function).lower():
            continue
        if not re.search(r"uniform\(", file.code(function)) or not find_all(function, cst.For):
            continue
        evidence = (
            "ratios are binned in float64; official's `torch.linspace` is float32, and 37 of 12 million numbers of "
            "masked patches differ"
        )
        torch = re.search(r"(?m)^import torch$", file.text) and not any(arg.keyword or arg.star for arg in call.args)
        edits = (replace(file, call.func, "torch.linspace"),) if torch else ()
        level = Level.UNSAFE if edits else Level.MANUAL
        person = "assumes that nothing else reads the bins as an array" if edits else "take `torch.linspace`"
        found.append(Finding("0003", State.PARTIAL, evidence, file.site(call), level, edits, person))
    return found


def _per_crop(calls: Calls) -> list[Finding]:
    """Return the calls that draw the masks of one batch crop by crop."""
    found = []
    for file in calls.index.files:
        for function in file.nodes(cst.FunctionDef):
            code = file.code(function)
            if "draw_block_masks(" not in code and not ("linspace(" in code and "shuffle(" in code and "mask" in code):
                continue
            by_function: dict[int, list[tuple[SourceFile, cst.Call]]] = {}
            for there, call in calls.callers(calls.definition(file, function)):
                by_function.setdefault(id(there.function(call)), []).append((there, call))
            for group in by_function.values():
                rows = {there.code(call.args[0].value) for there, call in group if call.args}
                if len(group) > 1 and len(rows) == 1:
                    evidence = (
                        f"`{function.name.value}` is called {len(group)} times with the rows of one crop, so the share "
                        "of masked rows is the same in each; official draws over the rows of both crops together"
                    )
                    there, call = group[0]
                    person = f"call it once with {len(group)} times the rows and take the result apart with `chunk`"
                    found.append(Finding("0003", State.PARTIAL, evidence, there.site(call), person=person))
    return found


MIGRATION = Migration(
    id="0003",
    title="Block masks over all global crops",
    official="data/masking.py:12-86 and data/collate.py:20-39",
    why=(
        "A token that is masked alone is guessed from its neighbours; a masked rectangle has to be understood from "
        "the rest of the image. Official masks half of the 2B global crops, each with a ratio of its own between 10 "
        "and 50 percent, and leaves the others whole. Blocks that go on after their first rectangle overshoot: a "
        "target of 58 patches gives 73 on average and up to 113."
    ),
    algebra=(
        "official:  rows masked = int(2B * 0.5); row k takes int(N * uniform(p_k, p_k+1)) patches, p = linspace(0.1, "
        "0.5); one block adds at most min(what is left, half the grid)\n"
        "bernoulli: each of N tokens with one probability r in every row; r * N on average, sqrt(r (1 - r) N) spread"
    ),
    example=Example(
        before="masks = torch.bernoulli(torch.ones(batch_size, height * width) * mask_ratio).bool()",
        after=(
            "masks = draw_block_masks(batch_size, (height, width), mask_ratio_min_max=(0.1, 0.5), "
            "mask_sample_probability=0.5)"
        ),
    ),
    person=f"Rows: {_ROWS}. Flags: {_FLAGS}.",
    checks=("masks.bitwise", "masks.distribution", "masks.counts", "collate.batch"),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
