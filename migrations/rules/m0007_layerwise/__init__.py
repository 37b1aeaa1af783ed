"""Learning rates by layer (official: `utils/param_groups.py:13-103`)."""

from __future__ import annotations

import re

from migrations.engine.model import Edit, Example, Finding, Level, Migration, Site, State
from migrations.engine.project import Project
from migrations.flow.groups import Unclear, flat
from migrations.flow.lookup import Lookup
from migrations.flow.optimizers import Optimizers
from migrations.rules.m0006_weight_decay import MIGRATION as M0006
from migrations.rules.m0006_weight_decay.judge import Groups, groups_of
from migrations.rules.m0006_weight_decay.sites import Loop, loops
from migrations.rules.m0007_layerwise.layers import (
    Formula,
    foreign_builders,
    formulas,
    is_dinov2,
    left_out,
    reads_embeddings,
)
from migrations.rules.m0007_layerwise.rewrite import builder_of, loop_edits, multiplier, swap_layerwise, swap_pair

__all__ = ["MIGRATION"]

_ID = "0007"
_LOOPS = re.compile(
    rb"\A(?=.*param_groups)(?=.*(?:\[\s*[\"']lr[\"']\s*\]\s*=(?!=)|\.update\([^)]{0,300}?\blr\b))", re.DOTALL
)
_PREFILTER = re.compile(rb"param_groups|named_parameters|layer_decay|layerwise_decay")
_RECIPES = (
    "official's vitl16_short, the default, multiplies by 0.9 per layer; vitl14 and vitg14 do not (1.0); "
    "all three multiply the patch embedding's by 0.2"
)
_CHECKPOINTS = (
    "checkpoints: an optimizer's state is keyed by the order of groups and parameters, which this changes; convert "
    "existing ones with `python -m migrations checkpoint`, else a resumed run has wrong moments or none"
)
_RECIPE = (
    "choose the recipe: 0.9 per layer is vitl16_short's (the default), 1.0 is vitl14's and vitg14's; "
    "a flag for `lr_decay_rate` keeps the choice open"
)
_LAST_LAYER = (
    "official also keeps the lr of groups with `is_last_layer` at 0 during the first `freeze_last_layer_epochs`; "
    "a freeze by deleting gradients is not the same, as weight decay still acts"
)


def find(project: Project) -> list[Finding]:
    """Return every loop that sets learning rates, and every builder that tells layers apart."""
    lookup = Lookup(project)
    layerwise, foreign = formulas(lookup), foreign_builders(lookup)
    origins = [one.file.site(one.power) for one in layerwise] + [file.site(call) for file, call in foreign]
    found: list[Finding] = []
    uniform: list[Loop] = []
    for file in project.matching(_LOOPS):
        for loop in loops(file, "lr"):
            keys = [key for write in loop.writes if (key := multiplier(loop, write.value))]
            if keys:
                found.append(_multiplied(loop, keys[0], origins))
            else:
                uniform.append(loop)
    if not found or any(_schedules_decay(loop) for loop in uniform):
        found += [_uniform(loop, project, lookup) for loop in uniform if not found or _schedules_decay(loop)]
    found += [_builder(one, project) for one in layerwise]
    if found:
        return found
    looked = "no loop over `param_groups` that sets `lr`, and no builder with learning rates by layer was found"
    return [Finding(_ID, State.UNKNOWN, looked, person=_RECIPE)]


def _schedules_decay(loop: Loop) -> bool:
    """Whether a loop schedules weight decay as well, as the loop of a pretraining does."""
    return any(other.node is loop.node for other in loops(loop.file))


def _multiplied(loop: Loop, key: str, origins: list[Site]) -> Finding:
    site = loop.file.site(loop.writes[0].node)
    if origins:
        why = f"the learning rate of every group is multiplied by its own `{key}`, which is set by layer ({origins[0]})"
        freezes = "last_layer" in loop.file.code(loop.node)
        return Finding(_ID, State.ALIGNED, why, site, person="" if freezes else _LAST_LAYER, related=tuple(origins))
    why = f"the learning rate of every group is multiplied by its own `{key}`; where that is set by layer was not found"
    return Finding(_ID, State.UNKNOWN, why, site, person=_RECIPE)


def _uniform(loop: Loop, project: Project, lookup: Lookup) -> Finding:
    site = loop.file.site(loop.writes[0].node)
    pretraining = _schedules_decay(loop) and is_dinov2(project)
    if not pretraining and not any(b"lr_multiplier" in file.data for file in project.files.values()):
        why = f"all groups learn at one rate here, as in DINO and iBOT; {_RECIPES}"
        return Finding(_ID, State.UNKNOWN, why, site, person=_RECIPE)
    try:
        groups = groups_of(Optimizers(lookup), loop)
    except Unclear as unclear:
        place = unclear.file.site(unclear.node)
        why = f"this loop gives all groups one learning rate; what they are is not known: {unclear.why} ({place})"
        return Finding(_ID, State.UNKNOWN, why, site, person=_RECIPE, related=(place,))
    items = flat(groups.layout)
    if items and all("lr_multiplier" in group.keys for group in items):
        why = f"the groups carry an `lr_multiplier` that this loop does not read, so all learn at one rate; {_RECIPES}"
        return _diverged(loop, project, why, loop_edits(loop), "", groups)
    n = f"{len(items)} groups" if len(items) == len(groups.layout) else "all groups"
    why = f"{n} learn at one rate, whatever their layer; {_RECIPES}"
    if not pretraining:
        why = f"{n} learn at one rate, as in DINO and iBOT; {_RECIPES}"
        return Finding(_ID, State.UNKNOWN, why, site, person=_RECIPE, related=groups.sites)
    builder = builder_of(items, lookup) if items else "there are no groups"
    if isinstance(builder, str):
        person = (
            f"no rewrite: {builder}; build the groups with `port.optim.get_params_groups_with_decay`; {_CHECKPOINTS}"
        )
        return Finding(_ID, State.DIVERGED, why, site, person=person, related=groups.sites)
    edits = (*swap_pair(*builder), *loop_edits(loop))
    return _diverged(loop, project, why, edits, f"{_RECIPE}; {_LAST_LAYER}; {_CHECKPOINTS}", groups)


def _diverged(loop: Loop, project: Project, why: str, edits: tuple[Edit, ...], person: str, groups: Groups) -> Finding:
    site = loop.file.site(loop.writes[0].node)
    lines = range(loop.file.line(loop.node), loop.file.site(loop.node).end_line + 1)
    decay = [one for one in M0006.find(project) if one.site and one.site.path == site.path and one.site.line in lines]
    if any(not one.state.settled for one in decay):
        blocked = (M0006.id,)
        return Finding(_ID, State.DIVERGED, why, site, Level.BLOCKED, (), person, blocked, groups.sites)
    return Finding(_ID, State.DIVERGED, why, site, Level.UNSAFE, edits, person, related=groups.sites)


def _builder(formula: Formula, project: Project) -> Finding:
    site = formula.file.site(formula.power)
    missing = left_out(formula, project)
    if not missing:
        named = "embeddings are layer 0, and the patch embedding has a factor of its own"
        how = named if reads_embeddings(formula) else "how names become layers is not compared"
        return Finding(_ID, State.ALIGNED, f"learning rates fall by layer; {how}", site)
    if not is_dinov2(project):
        person = f"compared with DINOv2: {'; '.join(missing)}"
        return Finding(_ID, State.ALIGNED, "learning rates fall by layer", site, person=person)
    edits = swap_layerwise(formula)
    why = f"learning rates fall by layer, but {'; '.join(missing)}"
    level = Level.UNSAFE if edits else Level.MANUAL
    return Finding(_ID, State.PARTIAL, why, site, level, edits, f"{_RECIPE}; {_CHECKPOINTS}")


MIGRATION = Migration(
    id=_ID,
    title="learning rate by layer",
    official="utils/param_groups.py:13-103, train/train.py:112-119",
    why=(
        "Official gives each parameter a constant factor of the learning rate by its layer: small at the input, 1 at "
        "the heads. The default recipe (vitl16_short) takes 0.9 per layer, so that the first block of 24 learns at "
        "0.08 of the head's rate; vitl14 and vitg14 take 1.0, which is no decay. The patch embedding is slowed by a "
        "further factor of 0.2 in every recipe. Whether a uniform rate is wrong depends on the recipe that is meant."
    ),
    algebra=(
        "lr_p(t) = lr(t) * decay ** (N + 1 - layer_p) * (0.2 if p is of the patch embedding else 1)\n"
        "layer: 0 for position, patch, CLS, mask and register embeddings; i + 1 for block i; N + 1 for all else\n"
        "N = 24, decay = 0.9: patch embedding 0.01436, tokens 0.0718, block 0 0.0798, block 23 0.9, norm and heads 1"
    ),
    example=Example(
        before='for group in optimizer.param_groups:\n    group["lr"] = lr\n',
        after='for group in optimizer.param_groups:\n    group["lr"] = lr * group["lr_multiplier"]\n',
    ),
    person=f"{_RECIPE}; {_LAST_LAYER}; {_CHECKPOINTS}. Backbones with other names of their parts need other layer ids.",
    checks=("param_groups.small", "param_groups.real"),
    depends_on=("0006",),
    prefilter=_PREFILTER,
    find=find,
)
