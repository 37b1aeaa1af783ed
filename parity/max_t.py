"""The largest T over a group of features under random exchanges of rows between two samples, by SciPy.

See `parity.permutation` for the statistic and what is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # imports stats, which takes a second, when a test is made
from numpy.typing import NDArray

__all__ = ["TIE", "Sample", "Tested", "Values", "exchanged", "varying"]

TIE = 1e-9
"""Sums of the same rows in another order are the same sum."""

_SEED = 4
_BATCH = 5_000
_CONSTANT = 1e-12  # a deviation below this share of the values is rounding

Values = NDArray[np.float64]
Sample = Sequence[Mapping[str, float]]
"""One mapping per batch, from each feature to its value; NaN where a batch has none."""


@dataclass(frozen=True)
class Tested:
    """A group of features before it is judged.

    Attributes:
        names: of the features.
        values: (n + m, features), the reference's rows first.
        first: n.
        statistics: T (features,).
        p: adjusted for the features of the group (features,).
        null: the largest T of each permutation but the observed one (resamples,).
    """

    names: tuple[str, ...]
    values: Values
    first: int
    statistics: Values
    p: Values
    null: Values


def exchanged(name: str, reference: Sample, subject: Sample, resamples: int) -> Tested:
    """Return T and adjusted p of every feature.

    Args:
        name: of the group, for an error.
        reference: its batches.
        subject: its batches.
        resamples: random permutations; where there are no more than these, each is made once.

    Raises:
        ValueError: a side has fewer than two batches.
    """
    if min(len(reference), len(subject)) < 2:
        raise ValueError(f"group {name!r} has {len(reference)} and {len(subject)} batches, expected at least 2 a side")
    names, values = _table([*reference, *subject])
    first = len(reference)
    weighed = _weighed(values, first)
    observed = np.abs(weighed[:first].sum(0))

    def largest(rows: Any, _: Any, axis: int) -> Values:
        """The largest T where `rows` (…, n) are the reference's; what the other rows sum to is its negative."""
        assert axis == -1
        rows = np.asarray(rows, dtype=np.int64)
        member = np.zeros((*rows.shape[:-1], len(values)))
        np.put_along_axis(member, rows, 1.0, axis)
        return np.asarray(np.abs(member @ weighed).max(-1, initial=0.0))

    # Row numbers trade sides instead of the values: one product then serves all features at once.
    numbers = np.arange(len(values), dtype=np.float64)
    result = scipy.stats.permutation_test(
        (numbers[:first], numbers[first:]),
        largest,
        permutation_type="independent",
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        alternative="greater",
        random_state=np.random.default_rng(_SEED),
        axis=-1,
    )
    null = np.asarray(result.null_distribution, dtype=np.float64)
    if math.comb(len(values), first) <= resamples:  # few rows trade sides in every way: the observed one is among them
        null = np.delete(null, int(np.abs(null - observed.max(initial=0.0)).argmin()))
    reached = len(null) - np.searchsorted(np.sort(null), observed - TIE)
    return Tested(names, values, first, observed, (reached + 1) / (len(null) + 1), null)


def _table(rows: Sample) -> tuple[tuple[str, ...], Values]:
    """Return feature names and values (rows, features) without gaps.

    Where batches lack a feature, how often they have it becomes a feature too, and the gaps take the mean of the
    others. Both depend on all rows alike, so rows may still trade sides.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns: dict[str, Values] = {}
    for name in names:
        column = np.array([float(row.get(name, math.nan)) for row in rows])
        there = np.isfinite(column)
        columns[name] = np.where(there, column, column[there].mean() if there.any() else 0.0)
        gaps = there.astype(np.float64)
        if not there.all() and not any(np.array_equal(gaps, other) for other in columns.values()):
            columns[f"{name}: batches that have it"] = gaps
    return tuple(columns), np.stack(list(columns.values()), axis=1) if columns else np.zeros((len(rows), 0))


def _weighed(values: Values, first: int) -> Values:
    """Return values (rows, features) of which the sum over one side is T up to its sign; 0 for constant features."""
    deviation = values.std(0, ddof=1)
    varies = varying(deviation, values)
    scale = math.sqrt(1 / first + 1 / (len(values) - first)) / np.where(varies, deviation, 1.0)
    return np.asarray((values - values.mean(0)) * np.where(varies, scale, 0.0))


def varying(deviation: Values, values: Values) -> NDArray[np.bool_]:
    """Return which deviations (features,) of values (rows, features) are more than rounding."""
    return np.asarray(deviation > _CONSTANT * np.abs(values).max(0, initial=0.0))
