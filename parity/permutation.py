"""One max-T permutation test per group of features: whether two samples of batches may come from one distribution.

A row is a **batch**, the unit that official draws independently; masks of one batch share their bins, crops of one
image set their images, so that rows of single masks or crops would be no independent draws.

- The statistic of a feature is T = |mean difference| / (s * sqrt(1/n + 1/m)), with s the deviation over **all** rows.
  s does not change when rows trade sides, so permuting needs one sum per feature. T rises with the t of Student.
- Adjusted p of a feature: how often the largest T over the features of its group, after rows traded sides at random,
  is at least its own (single-step max-T of Westfall and Young). Correlated features cost nothing.
- Groups are joined by Holm's step-down: the smallest p against alpha / groups, the next against
  alpha / (groups - 1), until one is too large. So the chance that any feature of any group alarms where the
  distributions are equal is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy  # imports stats, which takes a second, when it is asked for

from parity.max_t import TIE, Sample, Tested, Values, exchanged, varying

__all__ = ["POWER", "Feature", "Group", "critical_value", "holm", "judge", "smallest_detectable"]

POWER = 0.95
"""Chance at which a difference of the stated size is found."""

RESAMPLES = 29_999
"""With the observed order 30,000: the smallest level in use, 0.0005 / 3, is then 5 of them."""


@dataclass(frozen=True)
class Feature:
    """What the test says of one feature.

    Attributes:
        name: of the feature, in words.
        reference: mean over the reference's batches, in the feature's unit; NaN where no batch has it.
        subject: mean over the subject's batches.
        deviation: standard deviation between batches of one side, both sides pooled.
        statistic: T.
        p: adjusted for all features of the group.
        smallest: difference of the means that is found at `POWER`, in the feature's unit; infinite where none is.
        passed: the verdict.
    """

    name: str
    reference: float
    subject: float
    deviation: float
    statistic: float
    p: float
    smallest: float
    passed: bool


@dataclass(frozen=True)
class Group:
    """What the test says of the features that are judged together.

    Attributes:
        name: of the group.
        level: what Holm leaves this group of alpha.
        critical: the largest T that passes at this level.
        batches: of the reference and of the subject.
        features: in the order of the first batch.
    """

    name: str
    level: float
    critical: float
    batches: tuple[int, int]
    features: tuple[Feature, ...]


def judge(samples: Mapping[str, tuple[Sample, Sample]], alpha: float, resamples: int = RESAMPLES) -> list[Group]:
    """Test every group and join the groups by Holm.

    Args:
        samples: by group, the reference's batches and the subject's.
        alpha: chance of any alarm where no distribution differs.
        resamples: random permutations per group; where there are no more than these, each is made once.

    Raises:
        ValueError: a side of a group has fewer than two batches, or `resamples` cannot resolve alpha over the groups.
    """
    if samples and alpha / len(samples) * (resamples + 1) < 1:
        raise ValueError(
            f"{resamples} permutations cannot show a p of {alpha:g} / {len(samples)}, "
            f"expected at least {math.ceil(len(samples) / alpha) - 1}"
        )
    tested = {name: exchanged(name, *sides, resamples) for name, sides in samples.items()}
    levels = holm({name: float(group.p.min(initial=1.0)) for name, group in tested.items()}, alpha)
    return [_judged(name, group, levels[name]) for name, group in tested.items()]


def holm(p_values: Mapping[str, float], alpha: float) -> dict[str, float]:
    """Return the level that each p is compared with, so that exactly those with p <= level are rejected.

    Once one p is above its level, all larger ones get that same level: they are above it too.

    Args:
        p_values: by name.
        alpha: family-wise error rate.
    """
    levels: dict[str, float] = {}
    stopped = 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        levels[name] = stopped or alpha / (len(p_values) - place)
        if p > levels[name]:
            stopped = levels[name]
    return levels


def critical_value(null: Values, level: float) -> float:
    """Return the largest T whose p exceeds `level`.

    p = (1 + how many of the null are at least T) / (1 + len(null)), as the observed order is one of the permutations.

    Args:
        null: the largest T of each permutation but the observed one (resamples,).
        level: of the group.
    """
    allowed = math.floor(level * (len(null) + 1) + TIE) - 1  # of the null may be at least a T that is rejected
    return float(np.sort(null)[len(null) - 1 - allowed]) if allowed >= 0 else math.inf


def smallest_detectable(critical: float, deviation: float, first: int, second: int, power: float = POWER) -> float:
    """Return the difference of two means whose T exceeds the critical value with the given power.

    With N = n + m rows and r² = 1/n + 1/m, the squares about the mean of all rows are those within the sides and
    those of the difference D: (N - 1) s² = (N - 2) deviation² + D² / r². So T = |D| / (s r) exceeds the critical
    value c where |D| / (r deviation) exceeds t = c sqrt((N - 2) / (N - 1 - c²)), as Student's t would. That quotient
    is nearly normal about d / (r deviation) with variance 1 + t² / (2 (N - 2)), its second part being that of the
    deviation, and is above t with the given power for
    d = r deviation (t + z sqrt(1 + t² / (2 (N - 2)))), z the normal quantile of the power.

    Args:
        critical: the largest T that passes.
        deviation: between batches of one side, in the feature's unit.
        first: n, batches of the reference.
        second: m, batches of the subject.
        power: chance of finding it.

    Returns:
        In the feature's unit: 0 where batches do not vary, infinite where T cannot come so high with so few batches.
    """
    freedom = first + second - 2
    rest = freedom + 1 - critical**2
    if not rest > 0:
        return math.inf
    t = critical * math.sqrt(freedom / rest)
    above = float(scipy.stats.norm.ppf(power)) * math.sqrt(1 + t**2 / (2 * freedom))
    return deviation * math.sqrt(1 / first + 1 / second) * (t + above)


def _judged(name: str, group: Tested, level: float) -> Group:
    sides = group.values[: group.first], group.values[group.first :]
    counts = len(sides[0]), len(sides[1])
    means = [side.mean(0) for side in sides]
    squares = sum(((side - mean) ** 2).sum(0) for side, mean in zip(sides, means, strict=True))
    deviations = np.sqrt(np.asarray(squares) / (sum(counts) - 2))
    deviations[~varying(deviations, group.values)] = 0.0
    critical = critical_value(group.null, level)
    features = tuple(
        Feature(
            feature,
            float(means[0][place]),
            float(means[1][place]),
            float(deviations[place]),
            float(group.statistics[place]),
            float(group.p[place]),
            smallest_detectable(critical, float(deviations[place]), *counts),
            bool(group.p[place] > level),
        )
        for place, feature in enumerate(group.names)
    )
    return Group(name, level, critical, counts, features)
