"""The weight decay schedule reaches every decayed group (official: `train/train.py:112-119`)."""

from __future__ import annotations

import re

import libcst as cst

from migrations.engine.model import Example, Finding, Migration, State
from migrations.engine.project import Project
from migrations.flow.groups import Unclear, flat
from migrations.flow.lookup import Lookup
from migrations.flow.nodes import find_all, literal
from migrations.flow.optimizers import Optimizers
from migrations.rules.m0006_weight_decay.judge import Count, Groups, count, count_repeated, groups_of, undecided_text
from migrations.rules.m0006_weight_decay.outcome import Undecided
from migrations.rules.m0006_weight_decay.reading import Reading
from migrations.rules.m0006_weight_decay.rewrite import left_early, rewrite
from migrations.rules.m0006_weight_decay.sites import Loop, loops, odd_sites

__all__ = ["MIGRATION"]

_ID = "0006"
# Both words, and an assignment: `["weight_decay"] =`, or an `update` that names it.
_PREFILTER = re.compile(
    rb"\A(?=.*param_groups)(?=.*(?:\[\s*[\"']weight_decay[\"']\s*\]\s*=(?!=)|\.update\([^)]{0,300}?weight_decay))",
    re.DOTALL,
)
_DECIDE = (
    'decide which groups are decayed, and write `group["weight_decay"] = wd * group["wd_multiplier"]` for every '
    "group, with a multiplier of 0 on those that are spared"
)


def find(project: Project) -> list[Finding]:
    """Return every place that sets weight decay by a schedule."""
    found: list[Finding] = []
    optimizers = Optimizers(Lookup(project))
    for file in project.matching(_PREFILTER):
        understood = loops(file)
        found += [_judged(optimizers, loop) for loop in understood]
        found += [
            Finding(_ID, State.UNKNOWN, odd.why, odd.file.site(odd.node), person=_DECIDE)
            for odd in odd_sites(file, understood)
        ]
    if found:
        return found
    looked = "no loop over `param_groups` that sets `weight_decay` by a schedule was found"
    return [Finding(_ID, State.UNKNOWN, looked, person="if a schedule is meant, show where it is applied")]


def _judged(optimizers: Optimizers, loop: Loop) -> Finding:
    site = loop.file.site(loop.writes[0].node)
    whole = _evident(loop)
    if whole and "weight decay is not 0" not in whole:
        return Finding(_ID, State.ALIGNED, whole, site)
    try:
        groups = groups_of(optimizers, loop)
        if whole and not _starts_at_zero(groups):
            return Finding(_ID, State.ALIGNED, whole, site)
    except Unclear as unclear:
        if whole:
            return Finding(_ID, State.ALIGNED, whole, site)
        place = unclear.file.site(unclear.node)
        why = f"the decayed groups cannot be counted: {unclear.why} ({place})"
        return Finding(_ID, State.UNKNOWN, why, site, person=_DECIDE, related=(place,))
    additions = [file.site(call) for file, call in optimizers.additions()]
    if additions:
        why = f"groups are added to an optimizer later ({additions[0]}), so they cannot be counted here"
        return Finding(_ID, State.UNKNOWN, why, site, person=_DECIDE, related=tuple(additions))
    try:
        known = groups.known
        if known is None:
            return _repeated(loop, groups)
        return _counted(loop, groups, count(loop, known, groups))
    except Undecided as error:
        why = f"whether `{undecided_text(loop, error)}` holds is not known for each of the groups"
        return Finding(_ID, State.UNKNOWN, why, site, person=_DECIDE, related=groups.sites)


def _evident(loop: Loop) -> str:
    """Return why a loop is right whatever the groups are; empty where that depends on them."""
    if len(loop.writes) != 1 or loop.picked is not None:
        return ""
    write, reading = loop.writes[0], Reading.whole(loop)
    around: list[cst.If] = []
    for node in loop.file.ancestors(write.node):
        if node is loop.node:
            break
        if isinstance(node, cst.If):
            around.append(node)
    leaves = left_early(loop)
    deciding = [one for one in around if reading.mentions(one.test)]
    key = "" if isinstance(write.value, cst.IfExp) else reading.own(write.value)
    if key and not deciding and not leaves and not _defaulted(loop, key):
        return f"every group gets the schedule times its own `{key}`"
    own = [_decides(reading, one.test) for one in deciding]
    if len(own) == 1 and own[0] and not leaves and deciding[0].orelse is None:
        if own[0] == "weight_decay":
            return "every group whose weight decay is not 0 gets the schedule (one that passes through 0 would stop it)"
        return f"every group whose own `{own[0]}` says so gets the schedule"
    return ""


def _starts_at_zero(groups: Groups) -> bool:
    """Whether a decayed group starts at a weight decay of 0, so that a condition on its value never lets it in."""
    return any(groups.initial(group) == 0 for group in groups.known or () if not group.spared)


def _defaulted(loop: Loop, key: str) -> bool:
    """Whether a group without the key gets the whole schedule, `group.get(key, 1)`."""
    reading = Reading(loop)
    return any(reading.key(call) == key and len(call.args) > 1 for call in find_all(loop.node.body, cst.Call))


def _decides(reading: Reading, test: cst.BaseExpression) -> str:
    """Return the key in `group["key"]`, `group["key"] != 0` or `> 0`, whatever else all groups have in common."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        parts = [part for part in (test.left, test.right) if reading.mentions(part)]
        return _decides(reading, parts[0]) if len(parts) == 1 else ""
    if isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
        part = test.comparisons[0]
        zero = literal(part.comparator) == 0 and isinstance(part.operator, cst.NotEqual | cst.GreaterThan)
        return _decides(reading, test.left) if zero else ""
    if isinstance(test, cst.Name) and test.value in reading.names:
        return _decides(reading, reading.names[test.value])
    return reading.key(test)


def _repeated(loop: Loop, groups: Groups) -> Finding:
    """Judge a loop over groups whose number the source does not tell."""
    site, items = loop.file.site(loop.writes[0].node), flat(groups.layout)
    if items and all("wd_multiplier" in group.keys for group in items):
        why = "the groups carry a `wd_multiplier`, which this loop does not read: it decides by position"
        return Finding(_ID, State.UNKNOWN, why, site, person=_DECIDE, related=groups.sites)
    if count_repeated(loop, groups):
        return Finding(_ID, State.ALIGNED, "the schedule reaches every decayed group, however many", site)
    why = "how many groups reach this loop is not known, and its condition fits some numbers of them only"
    return Finding(_ID, State.UNKNOWN, why, site, person=_DECIDE, related=groups.sites)


def _counted(loop: Loop, groups: Groups, result: Count) -> Finding:
    site = loop.file.site(loop.writes[0].node)
    if not result.decayed:
        why = f"none of the {len(result.spared)} groups is decayed, so no schedule is needed"
        return Finding(_ID, State.UNKNOWN, why, site, person=_DECIDE, related=groups.sites)
    if result.aligned:
        return Finding(_ID, State.ALIGNED, _evidence(result, groups), site, related=groups.sites)
    mended = rewrite(loop, groups, result)
    if isinstance(mended, str):
        person = f"no rewrite: {mended}; {_DECIDE}"
        return Finding(_ID, State.DIVERGED, _evidence(result, groups), site, person=person, related=groups.sites)
    return Finding(
        _ID,
        State.DIVERGED,
        _evidence(result, groups),
        site,
        mended.level,
        mended.edits,
        mended.person,
        related=groups.sites,
    )


def _evidence(result: Count, groups: Groups) -> str:
    n, m = len(result.follow), len(result.decayed)
    noun = "group" if m == 1 else "groups"
    text = f"{n} of {m} decayed {noun} {'gets' if n == 1 else 'get'} the schedule"
    missed = [i for i in result.decayed if i not in result.follow]
    if missed:
        starts = {groups.initial((groups.known or ())[i]) for i in missed if i not in result.zeroed}
        start = next(iter(starts)) if len(starts) == 1 else ...
        kept = " and stay at 0" if set(missed) == set(result.zeroed) else ""
        kept = kept or (f" and stay at {start}" if isinstance(start, int | float) else " and keep what they start with")
        text += f"; {_numbers(missed)} {'does' if len(missed) == 1 else 'do'} not{kept}"
    if result.caught:
        text += f"; {len(result.caught)} of {len(result.spared)} spared groups get it too"
    return text


def _numbers(numbers: list[int]) -> str:
    texts = [str(number) for number in numbers]
    return f"group {texts[0]}" if len(texts) == 1 else f"groups {', '.join(texts[:-1])} and {texts[-1]}"


MIGRATION = Migration(
    id=_ID,
    title="weight decay schedule for every decayed group",
    official="train/train.py:112-119",
    why=(
        "Each module that brings its own pair of groups adds one that is decayed. A loop that sets the schedule on the "
        "first group alone was right for the two groups of DINO v1; with a backbone and two heads, the heads' weights "
        "stay at the optimizer's default. At the end of a schedule from 0.04 to 0.4 that is 0.01 in place of 0.4, a "
        "fortieth. What counts is how many of the groups are decayed, not what the condition looks like."
    ),
    algebra=(
        "official:  wd_g(t) = wd(t) * wd_multiplier_g for every group g, wd_multiplier 0 or 1\n"
        "i == 0:    wd_g(t) = wd(t) for g = 0; the optimizer's default for every other decayed g\n"
        "i % 2 == 0 equals official only where decayed and spared groups alternate, which layer-wise groups do not"
    ),
    example=Example(
        before=(
            'for i, group in enumerate(optimizer.param_groups):\n    if i == 0:\n        group["weight_decay"] = wd\n'
        ),
        after=(
            "for i, group in enumerate(optimizer.param_groups):\n"
            '    group.setdefault("wd_multiplier", float(group["weight_decay"] != 0))\n'
            '    group["weight_decay"] = wd * group["wd_multiplier"]\n'
        ),
    ),
    person=(
        "Groups that are added later (`add_param_group`), several optimizers and groups whose number depends on the "
        "configuration cannot be counted: decide there which are decayed. The first step remembers in each group "
        "whether it was spared, so that a schedule may pass through 0, and checkpoints keep it; do not resume from one "
        "that was saved before, while the schedule stood at exactly 0."
    ),
    checks=("param_groups.small", "schedules.every_step"),
    depends_on=(),
    prefilter=_PREFILTER,
    find=find,
)
