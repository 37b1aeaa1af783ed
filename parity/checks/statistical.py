"""Tier T4 of the families `masks` and `augment`: whether draws from any generator have official's distribution.

A stack that draws masks or crops from generators of its own (`parity.own_randomness`) cannot be official's bit for
bit. Here official and subject each draw many batches, under seeds that no two batches share, and features that a
person can read are compared by permutation tests, see `parity.permutation`. It is done for every subject: of one whose
stream is official's too, the verdict shows in each run that the test lets equal distributions pass.

`ALPHA` is the chance per run that any feature of either check alarms though all distributions are equal. A stack is
checked at each of its commits, so one in twenty would cry wolf every week; one in a thousand makes the smallest
difference that is found about a seventh larger. Each check has half of it, always, by a fixed share and not by Holm
over both: the verdict of one must not depend on whether the other was run, as `--only` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from parity.permutation import POWER, Feature, Group
from parity.results import Comparison, Exhibit

__all__ = ["ALPHA", "SHARE", "SUBJECT_SEEDS", "compared", "table"]

ALPHA = 0.001
"""Chance of a false alarm per run."""

SHARE = ALPHA / 2
"""Of each of the two checks."""

SUBJECT_SEEDS = 1_000_000
"""The subject's seeds begin here, the reference's at 0."""


def compared(group: Group) -> Iterator[Comparison]:
    """Yield one comparison per feature: T against the critical value, and in the note what the test can see."""
    n, m = group.batches
    for feature in group.features:
        yield Comparison(
            f"{group.name}/{feature.name}",
            "T4",
            feature.passed,
            False,
            error=feature.statistic,
            allowed=group.critical,
            reference=f"{feature.reference:.4g}",
            subject=f"{feature.subject:.4g}",
            note=f"means of {n} and {m} batches, adjusted p {_p(feature)}, alpha {group.level:.2g} of {ALPHA:g} a run, "
            f"critical T {group.critical:.3g}; a difference of {_smallest(feature)} is found with {POWER:.0%}",
        )


def _p(feature: Feature) -> str:
    return f"{feature.p:.2g}"


def _smallest(feature: Feature) -> str:
    return f"{feature.smallest:.2g}" if feature.smallest else "any size"


def table(groups: Iterable[Group]) -> Exhibit:
    """All features, what diverges first, then by p."""
    rows = [(group, feature) for group in groups for feature in group.features]
    rows.sort(key=lambda row: (row[1].passed, row[1].p))
    return Exhibit(
        "table",
        f"means over batches, alpha {SHARE:g}; a difference of the smallest size is found with {POWER:.0%}",
        tuple(
            {
                "of": group.name,
                "feature": feature.name,
                "official": f"{feature.reference:.4g}",
                "subject": f"{feature.subject:.4g}",
                "smallest": _smallest(feature),
                "p": _p(feature),
                "batches": "{} + {}".format(*group.batches),
                "T": f"{feature.statistic:.3g}",
                "critical T": f"{group.critical:.3g}",
                "verdict": "passed" if feature.passed else "DIVERGED",
            }
            for group, feature in rows
        ),
    )
