"""What is said of a training step's calls of the student."""

from __future__ import annotations

import re

from migrations.engine.model import Finding, Level, Site, State
from migrations.engine.project import Project
from migrations.flow.views import Part, overlap
from migrations.rules.m0001_unified_forward.calls import PREFILTER, Forward, Step, steps
from migrations.rules.m0001_unified_forward.skeleton import HOLE, skeleton

__all__ = ["find"]

_PERSON = (
    "the losses, the heads and the wrapping for several processes are a person's: take CLS and patch tokens from the "
    "one student call, draw masks for all global crops, let the patch head see the masked tokens of these crops, and "
    "call heads through the wrapped module, or gradients are not averaged over processes"
)


def find(project: Project) -> list[Finding]:
    """Return a finding per function that calls a student with masks, or a hole that an earlier rewrite left."""
    all_steps: list[Step] = []
    holes: list[Finding] = []
    for file in project.matching(PREFILTER):
        holes += _holes(file.path, file.text)
        all_steps += steps(file)
    # A file with holes says nothing yet of how its calls will be.
    unfinished = {hole.site.path for hole in holes if hole.site is not None}
    found = [_judged(step, all_steps) for step in all_steps if step.masked and step.file.path not in unfinished]
    if holes or found:
        return [*holes, *found]
    if all_steps:
        first = next((step for step in all_steps if step.teacher), all_steps[0])
        site = first.file.site(first.student[0].call)
        if first.teacher and not any(re.search(rb"(?i)ibot|mask", step.file.data) for step in all_steps):
            evidence = "the student is called without masks everywhere: there is no iBOT loss here, as in DINO v1"
            return [Finding("0001", State.NOT_APPLICABLE, evidence, site)]
        evidence = "no call of the student that was found is given masks; iBOT may call it under another name"
        person = "see how often a step calls the student, and on which crops with masks"
        return [Finding("0001", State.UNKNOWN, evidence, site, person=person)]
    evidence = "no call of a student network was found"
    return [Finding("0001", State.UNKNOWN, evidence, person="see how often a step calls the student, and on what")]


def _holes(path: str, text: str) -> list[Finding]:
    lines = [i for i, line in enumerate(text.splitlines(), 1) if HOLE in line]
    if not lines:
        return []
    evidence = f"{len(lines)} holes `# {HOLE}` are left, lines {', '.join(map(str, lines))}"
    return [Finding("0001", State.PARTIAL, evidence, Site(path, lines[0]), person="fill each, then remove its comment")]


def _judged(step: Step, all_steps: list[Step]) -> Finding:
    file = step.file
    masked = step.masked
    first = masked[0]
    site = file.site(first.call)
    seen_by_teacher = [part for forward in step.teacher for part in forward.given]
    others = [f for f in step.unmasked if step.together(f, first)]
    if not others:
        return _single(step, all_steps, first, site)
    shared = [(f, overlap(list(f.given), seen_by_teacher)) for f in others]
    again = [f for f, both in shared if both]
    if again:
        return _diverged(step, first, again[0])
    if all(both is False for _, both in shared) and overlap(list(first.given), seen_by_teacher):
        evidence = f"the student sees {_shown(first)} with masks, and other crops in another call: each crop once"
        return Finding("0001", State.ALIGNED, evidence, site)
    evidence = (
        f"the student is called {len(others) + 1} times, with masks on {_shown(first)} and without on "
        f"{_shown(others[0])}; whether these are the same crops could not be followed"
    )
    return Finding("0001", State.UNKNOWN, evidence, site, person="see whether a global crop passes the student twice")


def _single(step: Step, all_steps: list[Step], first: Forward, site: Site) -> Finding:
    """Judge a step whose student calls all have masks."""
    file = step.file
    more = [f for f in step.masked[1:] if step.together(f, first) and f.given != first.given]
    elsewhere = [s for s in all_steps if s.file is file and s is not step and not s.masked]
    if more or elsewhere:
        places = [file.site(f.call) for f in more] + [s.file.site(s.student[0].call) for s in elsewhere]
        evidence = f"the student is called with masks on {_shown(first)}, and again at {', '.join(map(str, places))}"
        person = "see whether both run in one step: official calls the student once"
        return Finding("0001", State.UNKNOWN, evidence, site, person=person, related=tuple(places))
    return Finding("0001", State.ALIGNED, f"one student call per step, with masks, on {_shown(first)}", site)


def _diverged(step: Step, masked: Forward, unmasked: Forward) -> Finding:
    """Judge a step in which crops that the teacher sees pass the student without masks, and masks go elsewhere."""
    file = step.file
    same = overlap(list(masked.given), list(unmasked.given))
    where = "the same crops again" if same else f"another view ({_shown(masked)})"
    evidence = (
        f"the student is called {len(step.student)} times per step: without masks on {_shown(unmasked)} for DINO, and "
        f"with masks on {where} for iBOT; official calls it once, with masks on the global crops"
    )
    edits, related = skeleton(step, masked, unmasked)
    level = Level.SKELETON if edits else Level.MANUAL
    return Finding(
        "0001", State.DIVERGED, evidence, file.site(unmasked.call), level, tuple(edits), _PERSON, related=related
    )


def _shown(forward: Forward) -> str:
    given: list[Part] = list(dict.fromkeys(forward.given))
    shown = " + ".join(map(str, given[:3])) or "what could not be followed"
    return f"`{re.sub(chr(10) + r' *', ' ', shown)}`" if given else shown
