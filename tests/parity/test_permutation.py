from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from parity.max_t import Sample, exchanged
from parity.permutation import critical_value, holm, judge, smallest_detectable


def rows(values: np.ndarray) -> Sample:
    """Batches with features a, b, … from values (batches, features)."""
    return [{chr(97 + place): float(v) for place, v in enumerate(row)} for row in values]


def normal(generator: np.random.Generator, batches: int, features: int, shift: float = 0.0) -> Sample:
    """Independent standard normal features, the first of them shifted."""
    values = generator.normal(size=(batches, features))
    values[:, 0] += shift
    return rows(values)


def likely(successes: int, trials: int, p: float, sure: float = 1e-5) -> bool:
    """Whether so many successes are within the central 1 - 2 sure of the binomial distribution."""
    low, high = stats.binom.ppf(sure, trials, p), stats.binom.ppf(1 - sure, trials, p)
    return bool(low <= successes <= high)


def test_holm_by_hand() -> None:
    """0.01 of 4 p's passes 0.05 / 4; 0.014 passes 0.05 / 3; 0.03 fails 0.05 / 2, and 0.04 fails with it below 0.05."""
    p = {"d": 0.04, "b": 0.014, "a": 0.01, "c": 0.03}
    levels = holm(p, 0.05)
    assert levels == pytest.approx({"a": 0.0125, "b": 0.05 / 3, "c": 0.025, "d": 0.025})
    assert {name for name in p if p[name] <= levels[name]} == {"a", "b"}


def test_holm_of_one_is_alpha_and_of_none_is_nothing() -> None:
    """A single test needs no correction; the last of several rejected ones has all of alpha."""
    assert holm({"only": 0.5}, 0.001) == {"only": 0.001}
    assert holm({}, 0.001) == {}
    assert holm({"a": 0.0, "b": 0.0}, 0.01) == {"a": 0.005, "b": 0.01}


@pytest.mark.parametrize(
    ("level", "critical"),
    [
        (0.05, math.inf),  # p of what no permutation reaches is 1 / 10
        (0.1, 9.0),  # so 0.1 needs more than the largest
        (0.2, 8.0),  # one permutation may reach it
        (0.29, 8.0),
        (0.3, 7.0),
    ],
)
def test_a_critical_value_by_hand(level: float, critical: float) -> None:
    """Of nine permutations with T of 1 to 9, p = (1 + how many reach T) / 10."""
    assert critical_value(np.array([3.0, 1, 9, 5, 7, 2, 8, 4, 6]), level) == critical


def test_p_by_counting_every_exchange() -> None:
    """Of the 6 ways to choose 2 of 4 rows, 2 put 0 and 1 apart from 2 and 3: T is the largest there, p = 2 / 6."""
    tested = exchanged("x", rows(np.array([[0.0], [1]])), rows(np.array([[2.0], [3]])), 99)
    assert len(tested.null) == 5
    assert tested.p == pytest.approx([1 / 3])
    # Means 0.5 and 2.5; the deviation of 0, 1, 2, 3 is sqrt(5 / 3), and r is 1.
    assert tested.statistics == pytest.approx([2 / math.sqrt(5 / 3)])


def test_the_largest_statistic_is_that_of_all_features_together() -> None:
    """A second feature that is larger in other exchanges makes the first's p larger: 1 / 3 becomes 4 / 6.

    Rows (0, 0), (1, 1), (2, 0), (3, 1): exchanges {0, 2} and {1, 3} give the second feature a difference of 1, which
    over its deviation sqrt(1 / 3) is sqrt(3), more than the first's 2 / sqrt(5 / 3).
    """
    both = np.array([[0.0, 0], [1, 1], [2, 0], [3, 1]])
    tested = exchanged("x", rows(both[:2]), rows(both[2:]), 99)
    assert tested.statistics == pytest.approx([2 / math.sqrt(5 / 3), 0])
    assert tested.p == pytest.approx([4 / 6, 1])


def test_what_never_varies_passes_and_is_found_at_any_size() -> None:
    """A share that is 0.5 in every batch of both has T = 0; where one side has 0.25 it cannot be chance."""
    same = [{"share": 0.1 + 0.2}] * 20
    ((feature,),) = (group.features for group in judge({"x": (same, same)}, 0.01, 999))
    assert (feature.statistic, feature.p, feature.passed, feature.smallest) == (0, 1, True, 0)
    ((feature,),) = (group.features for group in judge({"x": (same, [{"share": 0.25}] * 20)}, 0.01, 999))
    # All 40 rows deviate by half the difference d: T = d / (d / 2 sqrt(40 / 39) sqrt(1 / 10)) = sqrt(39).
    assert feature.statistic == pytest.approx(math.sqrt(39))
    assert not feature.passed
    assert feature.p == pytest.approx(1 / 1000)


def test_what_a_side_lacks_is_a_difference_of_how_often_it_has_it() -> None:
    """NaN in half of one side's batches: the values agree, having them does not."""
    full = [{"hue": 1.0 + i % 2} for i in range(20)]
    half = [{"hue": math.nan if i % 4 < 2 else 1.0 + i % 2} for i in range(20)]
    (group,) = judge({"x": (full, half)}, 0.01, 999)
    assert [f.name for f in group.features] == ["hue", "hue: batches that have it"]
    assert [f.passed for f in group.features] == [True, False]
    assert (group.features[1].reference, group.features[1].subject) == (1, 0.5)


def test_a_feature_that_no_batch_has_says_nothing() -> None:
    """NaN everywhere on both sides is equal, without a warning; infinite values count as none."""
    nothing = [{"hue": math.nan, "size": 1.0}, {"hue": math.inf, "size": 2.0}] * 5
    (group,) = judge({"x": (nothing, nothing)}, 0.1, 99)
    assert all(f.passed for f in group.features)


def test_features_that_lack_together_are_counted_once() -> None:
    """Two features that are NaN in the same batches bring one feature of how often they are there."""
    some = [{"hue": math.nan, "flip": math.nan} if i % 2 else {"hue": 1.0, "flip": 0.5} for i in range(10)]
    (group,) = judge({"x": (some, some)}, 0.1, 99)
    assert [f.name for f in group.features] == ["hue", "hue: batches that have it", "flip"]


@pytest.mark.parametrize(("alpha", "resamples"), [(0.001, 998), (0.0001, 9_998)])
def test_too_few_permutations_are_refused(alpha: float, resamples: int) -> None:
    """A p below 1 / (permutations + 1) cannot be shown; with one more it can."""
    sides = (normal(np.random.default_rng(0), 12, 1), normal(np.random.default_rng(1), 12, 1))
    with pytest.raises(ValueError, match=f"cannot show a p of {alpha:g} / 1, expected at least {resamples + 1}"):
        judge({"x": sides}, alpha, resamples)
    assert judge({"x": sides}, alpha, resamples + 1)[0].critical < math.inf


def test_a_single_batch_is_no_sample() -> None:
    """The error names the group and both sizes."""
    with pytest.raises(ValueError, match="group 'masks' has 5 and 1 batches, expected at least 2 a side"):
        judge({"masks": ([{"a": 1.0}] * 5, [{"a": 1.0}])}, 0.1, 99)


def test_no_groups_are_no_verdict() -> None:
    """Nothing to judge gives nothing."""
    assert judge({}, 0.001) == []


def test_verdict_and_critical_value_agree() -> None:
    """A feature passes where its T is at most the critical value of its group, over shifts about the threshold."""
    generator = np.random.default_rng(5)
    sides = {f"shift {k}": (normal(generator, 20, 3), normal(generator, 20, 3, 0.15 * k)) for k in range(8)}
    groups = judge(sides, 0.05, 999)
    features = [(f, group.critical) for group in groups for f in group.features]
    assert {f.passed for f, _ in features} == {True, False}
    for feature, critical in features:
        assert feature.passed == (feature.statistic <= critical + 1e-9)


def test_units_and_order_of_rows_do_not_matter() -> None:
    """Another unit or origin changes means, deviation and smallest difference alike, and neither T nor p."""
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=(15, 2)), generator.normal(size=(15, 2)) + 0.5
    (plain,), (scaled,) = (
        judge({"x": (rows(a), rows(b))}, 0.05, 499),
        judge({"x": (rows(1000 * a + 7), rows(1000 * b + 7))}, 0.05, 499),
    )
    for one, other in zip(plain.features, scaled.features, strict=True):
        assert (other.statistic, other.p) == pytest.approx((one.statistic, one.p))
        assert (other.deviation, other.smallest) == pytest.approx((1000 * one.deviation, 1000 * one.smallest))


def _null(generator: np.random.Generator, batches: int) -> Sample:
    """Skewed, discrete, rare and correlated features of one distribution: nothing is normal."""
    skewed = generator.exponential(size=batches) ** 2
    columns = [skewed, skewed + generator.exponential(size=batches), generator.poisson(0.2, batches)]
    return rows(np.stack([*columns, generator.random(batches) < 0.1], axis=1).astype(float))


def test_alpha_is_kept_where_distributions_are_equal() -> None:
    """Of 300 runs of two groups each, a false alarm in any of them as rarely as alpha allows, and about as often."""
    generator = np.random.default_rng(11)
    alpha, runs, alarms = 0.05, 300, 0
    for _ in range(runs):
        sides = {name: (_null(generator, 16), _null(generator, 16)) for name in ("x", "y")}
        alarms += any(not f.passed for group in judge(sides, alpha, 199) for f in group.features)
    assert alarms <= stats.binom.ppf(1 - 1e-4, runs, alpha)
    # Discrete features and Holm's bound make it no more than that; a test that never alarms would be no test.
    assert alarms >= stats.binom.ppf(1e-4, runs, alpha / 2)


def test_one_group_alarms_as_often_as_alpha_says() -> None:
    """For continuous features p is uniform on its steps, so that alpha is met exactly: a two-sided binomial bound."""
    generator = np.random.default_rng(12)
    alarms = 0
    for _ in range(400):
        (group,) = judge({"x": (normal(generator, 14, 5), normal(generator, 14, 5))}, 0.1, 199)
        alarms += any(not f.passed for f in group.features)
    assert likely(alarms, 400, 0.1)


@pytest.mark.parametrize(("first", "second", "critical"), [(40, 40, 4.2), (64, 64, 3.0), (20, 90, 4.0)])
def test_the_smallest_detectable_difference_is_that_of_student_s_test(first: int, second: int, critical: float) -> None:
    """T is a function of Student's t, whose noncentral distribution is above it in 95 % at this difference."""
    deviation, n = 0.3, first + second
    d = smallest_detectable(critical, deviation, first, second)
    # With t and all sums of squares in units of the deviation within: T² = t² / ((N - 2 + t²) / (N - 1)).
    t = critical * math.sqrt((n - 2) / (n - 1 - critical**2))
    assert t**2 / ((n - 2 + t**2) / (n - 1)) == pytest.approx(critical**2)
    noncentrality = d / deviation / math.sqrt(1 / first + 1 / second)
    assert stats.nct.sf(t, n - 2, noncentrality) == pytest.approx(0.95, abs=0.003)


@pytest.mark.parametrize(("first", "second"), [(40, 40), (25, 70)])
def test_the_smallest_detectable_difference_is_found_as_often_as_it_says(first: int, second: int) -> None:
    """Of 4,000 normal samples shifted by it about 95 % exceed the critical value; of those shifted by half, few."""
    generator, critical, deviation = np.random.default_rng(first), 4.2, 2.0
    d = smallest_detectable(critical, deviation, first, second)

    def found(shift: float) -> int:
        values = generator.normal(scale=deviation, size=(4000, first + second))
        values[:, first:] += shift
        gaps = np.abs(values[:, :first].mean(1) - values[:, first:].mean(1))
        return int((gaps / (values.std(1, ddof=1) * math.sqrt(1 / first + 1 / second)) > critical).sum())

    assert likely(found(d), 4000, 0.95)
    assert found(d / 2) < 0.2 * 4000


def test_a_difference_of_the_stated_size_is_found_by_the_whole_test() -> None:
    """Of 150 data sets shifted by what the first one states, the permutation test finds about 95 %, and names it."""
    generator = np.random.default_rng(21)
    (group,) = judge({"x": (normal(generator, 30, 6), normal(generator, 30, 6))}, 0.01, 999)
    shift = smallest_detectable(group.critical, 1.0, 30, 30)
    found = 0
    for _ in range(150):
        (group,) = judge({"x": (normal(generator, 30, 6), normal(generator, 30, 6, shift))}, 0.01, 999)
        found += not group.features[0].passed
    assert likely(found, 150, 0.95)


def test_too_few_batches_find_no_difference_whatever_its_size() -> None:
    """T is at most sqrt(N - 1), so 5 and 5 batches never exceed 3.1; half the power needs a smaller difference."""
    assert smallest_detectable(3.1, 1.0, 5, 5) == math.inf
    assert smallest_detectable(2.9, 1.0, 5, 5) < math.inf
    assert smallest_detectable(2.0, 1.0, 20, 20, power=0.5) < smallest_detectable(2.0, 1.0, 20, 20)
    assert smallest_detectable(math.inf, 1.0, 20, 20) == math.inf


def test_the_deviation_is_that_between_batches_of_one_side() -> None:
    """0, 2 against 10, 14: sums of squares 2 and 8 over 4 - 2 degrees of freedom."""
    (group,) = judge({"x": (rows(np.array([[0.0], [2]])), rows(np.array([[10.0], [14]])))}, 0.5, 99)
    (feature,) = group.features
    assert (feature.reference, feature.subject) == (1, 12)
    assert feature.deviation == pytest.approx(math.sqrt(5))


def test_the_same_samples_give_the_same_verdict() -> None:
    """The permutations come from a generator of their own, whatever state NumPy's is in."""
    sides = (normal(np.random.default_rng(0), 20, 4), normal(np.random.default_rng(1), 20, 4))
    first = judge({"x": sides}, 0.05, 199)
    np.random.seed(99)
    assert judge({"x": sides}, 0.05, 199) == first
