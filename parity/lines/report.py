"""Tells which lines of official code were executed, and why others were not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from parity.lines.measure import FileLines, owner_of, spans
from parity.lines.reasons import Reason, reason_for

__all__ = ["as_text", "verdict"]

_UNKNOWN = "NO REASON IS KNOWN"


def verdict(files: Sequence[FileLines], share: float) -> int:
    """Return 0 where at least `share` of the statements that count were executed and all left have a reason, else 1."""
    executed, total = _totals(files)
    explained = all(reason is not None for file in files for _, reason, _ in _left(file))
    return 0 if total and executed >= share * total and explained else 1


def as_text(files: Sequence[FileLines], share: float) -> str:
    """Return a table of the files, the lines left with their reasons, and the verdict."""
    width = max(len(file.name) for file in files)
    rows = [(file.name, *_totals([file])) for file in files]
    rows.append(("all", *_totals(files)))
    lines = ["lines of official code executed by this run, below dinov2/"]
    lines += [f"  {name:<{width}}  {done:>5} of {total:>5}  {_percent(done, total)}" for name, done, total in rows]
    lines.append("left, and why:")
    for file in files:
        for owner, reason, left in _left(file):
            why = _UNKNOWN if reason is None else f"{reason.why}{' (not counted)' if reason.elsewhere else ''}"
            lines.append(f"  {file.name}:{spans(left)}{f' in {owner}' if owner else ''}: {why}")
    executed, total = _totals(files)
    word = "enough" if not verdict(files, share) else "NOT ENOUGH"
    found, expected = _percent(executed, total).strip(), _percent(share, 1).strip()
    lines.append(f"{word}: {found} executed; {expected} are expected, and a reason for each line left")
    return "\n".join(lines) + "\n"


def _totals(files: Iterable[FileLines]) -> tuple[int, int]:
    """Return how many statements were executed, of how many that count."""
    executed, total = 0, 0
    for file in files:
        elsewhere = sum(len(left) for _, reason, left in _left(file) if reason is not None and reason.elsewhere)
        executed += file.executed
        total += len(file.statements) - elsewhere
    return executed, total


def _percent(executed: float, total: int) -> str:
    # Rounded down: 94.96 % is not 95 %.
    return f"{int(1000 * executed / total) / 10:>5.1f} %" if total else "      -"


def _left(file: FileLines) -> list[tuple[str, Reason | None, list[int]]]:
    """Return the lines left of a file as (function, reason, lines), in order, neighbours of one reason together."""
    texts = file.source.splitlines()
    told = [(owner_of(file.source, line), line) for line in file.left]
    keyed = [((owner, reason_for(file.name, owner, texts[line - 1])), line) for owner, line in told]
    return [(*key, [line for _, line in group]) for key, group in groupby(keyed, key=lambda pair: pair[0])]
