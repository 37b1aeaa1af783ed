"""Every comparison of a run in the JSON report, in a fraction of the room that a record each would take.

A run makes over a hundred thousand comparisons, most of them equal bit for bit and under names that come again in each
recipe. So the document has each name once under each rule, in `names`, as `[tier, name]`. A check has in its own
`names` the places of its comparisons there, as runs `[first, how many]`, and in `inexact` a row for each comparison
that did not pass or was not equal bit for bit: `[place in the check, passed, bitwise, max_ulp, error, allowed]`. Every
other one passed and was equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parity.results import Comparison

__all__ = ["NamePool", "Record", "inexact_rows", "number_of", "records_of"]


@dataclass(frozen=True)
class Record:
    """What the JSON report keeps of a comparison.

    Attributes:
        name: as in `Comparison`.
        tier: as in `Comparison`.
        passed: as in `Comparison`.
        bitwise: as in `Comparison`.
        error: as in `Comparison`; None also for those that are equal bit for bit.
        allowed: as above.
    """

    name: str
    tier: str
    passed: bool = True
    bitwise: bool = True
    error: float | None = None
    allowed: float | None = None


class NamePool:
    """The distinct names of all comparisons with their tiers, in the order in which they first appear."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], int] = {}

    @property
    def names(self) -> list[list[str]]:
        """All that were added so far, `[tier, name]`."""
        return [list(pair) for pair in self._places]

    def add(self, comparisons: Iterable[Comparison]) -> list[list[int]]:
        """Return the places of the comparisons' names as runs `[first, how many]`."""
        runs: list[list[int]] = []
        for comparison in comparisons:
            place = self._places.setdefault((comparison.tier, comparison.name), len(self._places))
            if runs and place == sum(runs[-1]):
                runs[-1][1] += 1
            else:
                runs.append([place, 1])
        return runs


def inexact_rows(comparisons: Sequence[Comparison]) -> list[list[Any]]:
    """Return the rows of `inexact`."""
    return [
        [place, c.passed, c.bitwise, c.max_ulp, c.error, c.allowed]
        for place, c in enumerate(comparisons)
        if not (c.passed and c.bitwise)
    ]


def records_of(check: Mapping[str, Any], names: Sequence[Sequence[str]]) -> list[Record]:
    """Return the comparisons of a check of the JSON report, in order.

    Args:
        check: the check's object, parsed.
        names: the document's `names`, pairs of strings.

    Raises:
        ValueError: the runs or the rows are not what `NamePool.add` and `inexact_rows` make.
    """
    records: list[Record] = []
    for run in check["names"]:
        first, many = run
        if not (_is_int(first) and _is_int(many) and first >= 0 and 0 < many <= len(names) - first):
            raise ValueError(f"names holds the run {run!r}, expected [first, how many] within {len(names)} names")
        records += [Record(name, tier) for tier, name in names[first : first + many]]
    for row in check["inexact"]:
        place, passed, bitwise, _, error, allowed = row
        if not (_is_int(place) and 0 <= place < len(records)):
            raise ValueError(f"inexact has a row for place {place!r}, expected one of {len(records)} comparisons")
        if not (isinstance(passed, bool) and isinstance(bitwise, bool)):
            raise ValueError(f"inexact has {passed!r}, {bitwise!r}, expected true or false")  # noqa: TRY004 -- a file's
        sizes = number_of(error), number_of(allowed)
        records[place] = Record(records[place].name, records[place].tier, passed, bitwise, *sizes)
    return records


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number_of(value: object) -> float | None:
    """Return a number as the JSON report spells it, with its strings for what JSON has no form for.

    Raises:
        ValueError: it is none.
    """
    if value is None:
        return None
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{value!r} is no number")
