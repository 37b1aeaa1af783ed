"""The words for states, levels and next steps, the same in every format."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from migrations.engine.model import Finding, Level, State
from migrations.engine.planning import in_order
from migrations.engine.survey import Result

__all__ = ["LEVELS", "STYLES", "NextStep", "headline", "level_word", "many", "next_steps", "place"]

STYLES: Mapping[State, str] = {
    State.DIVERGED: "bold red",
    State.PARTIAL: "bold yellow",
    State.UNKNOWN: "yellow",
    State.SUPPRESSED: "dim",
    State.ALIGNED: "green",
    State.NOT_APPLICABLE: "dim",
}

LEVELS: Mapping[Level, str] = {
    Level.SAFE: "safe",
    Level.UNSAFE: "--unsafe",
    Level.SKELETON: "--skeleton",
    Level.MANUAL: "by hand",
    Level.BLOCKED: "blocked",
}


@dataclass(frozen=True)
class NextStep:
    """What to type next, and what it does; without a command, what to do by hand."""

    command: str
    effect: str


def many(count: int, noun: str) -> str:
    """Return `1 file`, `1,234 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def place(finding: Finding) -> str:
    """Return `path:line`, or `-` where a finding is about the whole project."""
    return str(finding.site) if finding.site else "-"


def level_word(finding: Finding) -> str:
    """Return how a finding is mended; nothing where it is settled, or where nothing was found that could be."""
    found = finding.site is not None or finding.edits or finding.blocked_by
    return "" if finding.state.settled or not found else LEVELS[finding.level]


def headline(results: Sequence[Result]) -> str:
    """Return in one sentence how a project stands."""
    if not results:
        return "no migrations are installed, so nothing was looked for"
    counts = Counter(result.state for result in results)
    left = sum(count for state, count in counts.items() if not state.settled)
    total = len(results)
    if not left:
        return f"all {total} documented differences are settled"
    parts = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state] and not state.settled)
    return f"{left} of {total} documented differences to official DINOv2 need attention ({parts})"


def next_steps(results: Sequence[Result], path: str) -> list[NextStep]:
    """Return what to do next, from the most to the least that a command can do."""
    if not results:
        return [NextStep("", "install the project completely: its rules are in migrations/rules")]
    name = shlex.quote(path)
    by_id = {result.migration.id: result for result in results}
    ordered = [by_id[one.id] for one in in_order([result.migration for result in results])]
    broken = [result for result in ordered if result.failure]
    if broken:
        return [NextStep("", f"the rule of {broken[0].migration.id} failed ({broken[0].failure}); please report it")]
    option = ""
    allowed: list[Level] = []
    for level in (Level.SAFE, Level.UNSAFE, Level.SKELETON):
        option += "" if level is Level.SAFE else f" --{level.value}"
        allowed.append(level)
        free = [result for result in ordered if _is_free(result, by_id, allowed)]
        if count := sum(len(result.offers(*allowed)) for result in free):
            return [
                NextStep(
                    f"python -m migrations plan {name}{option}", f"shows {_changes(count, level)}, writes nothing"
                ),
                NextStep(f"python -m migrations apply {name}{option} --write", "carries them out"),
            ]
    for result in ordered:
        if not result.state.settled:
            return [NextStep(f"python -m migrations explain {result.migration.id}", _by_hand(result))]
    return [
        NextStep("python -m parity run --subject ADAPTER.py", "proves it by numbers; `python -m parity run --help`")
    ]


def _is_free(result: Result, by_id: Mapping[str, Result], allowed: Sequence[Level]) -> bool:
    """Whether what a migration depends on is out of the way, or would be with the levels allowed."""
    for id_ in result.migration.depends_on:
        first = by_id.get(id_)
        diverged = [f for f in first.open if f.state is State.DIVERGED] if first is not None else []
        if first is None or not diverged:
            continue
        if any(f.level not in allowed for f in diverged) or not _is_free(first, by_id, allowed):
            return False
    return True


def _changes(count: int, level: Level) -> str:
    what = {
        Level.SAFE: "proven right from the source",
        Level.UNSAFE: "right under assumptions that are named",
        Level.SKELETON: "with holes that you fill",
    }[level]
    return f"{many(count, 'change')} {what}"


def _by_hand(result: Result) -> str:
    main = result.main
    if main is None or main.site is None:
        return "what official code does, and how to say that this does not concern you"
    return f"what to change by hand at {main.site}"
