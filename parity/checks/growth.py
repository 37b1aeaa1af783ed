"""How a difference grows over a training: one row for the step where it begins, and for some after it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.results import Comparison, Exhibit

__all__ = ["growth", "step_of"]

_ROWS = 6
"""As many as the terminal report shows of a table."""

_STEP = re.compile(r"(?:^|/)step (\d+)/")


def step_of(name: str) -> int:
    """Return the iteration in a comparison's name, `…step 17/losses/koleo_loss`."""
    found = _STEP.search(name)
    assert found is not None, name
    return int(found[1])


def growth(made: Sequence[Comparison], where: str) -> Iterator[Exhibit]:
    """Yield a table of the differing steps, unless nothing diverged.

    Args:
        made: comparisons whose names hold their iteration.
        where: precision and state, for the title.
    """
    first = next((c for c in made if not c.passed), None)
    if first is None:
        return
    steps: dict[int, list[Comparison]] = {}
    for comparison in made:
        steps.setdefault(step_of(comparison.name), []).append(comparison)
    start = step_of(first.name)
    shown = _spread(sorted(step for step in steps if step >= start))
    subject = first.name.split("/", 2)[2]
    yield Exhibit(
        "table",
        f"growth of the difference, {where}: it begins at step {start}, {subject}",
        tuple(_row(step, steps[step]) for step in shown),
    )


def _spread(steps: Sequence[int]) -> list[int]:
    """Return the first step, the last, and some between whose distances from the first double, as growth does."""
    last = len(steps) - 1
    places = sorted({round(last ** (i / (_ROWS - 2))) for i in range(_ROWS - 1)} | {0}) if last > 0 else [0]
    return [steps[place] for place in places]


def _row(step: int, made: Sequence[Comparison]) -> Mapping[str, Any]:
    """The loss that differs most in relation to its size, and how many tensors differ beyond what is allowed."""
    losses = [c for c in made if "/losses/" in c.name]
    worst = max(losses, key=_relative, default=None)
    return {
        "step": step,
        "loss": worst.name.rsplit("/", 1)[1] if worst else None,
        "official": worst.reference if worst else None,
        "yours": worst.subject if worst else None,
        "difference": worst.error if worst else None,
        "tensors beyond": f"{sum(not c.passed for c in made)} of {len(made)}",
    }


def _relative(comparison: Comparison) -> float:
    try:
        size = abs(float(comparison.reference))
    except ValueError:
        size = 0.0
    return (comparison.error or 0.0) / size if size else comparison.error or 0.0
