from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.compare import PRECISION_FACTOR, SEMANTIC_FACTOR, Noise, exact, exact_mapping, judged, missing
from parity.results import Tier

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("reference", "subject", "same"),
    [
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([INF]), torch.tensor([INF]), True),
        (torch.tensor([INF]), torch.tensor([-INF]), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0]), False),
        (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0], dtype=torch.bfloat16), True),
        (torch.tensor([1], dtype=torch.int64), torch.tensor([1], dtype=torch.int32), False),
        (torch.ones(2, 3), torch.ones(3, 2), False),
        (torch.ones(1), torch.tensor(1.0), False),
        (torch.ones(0), torch.ones(0), True),
        (torch.ones(0, 3), torch.ones(0, 4), False),
        (torch.tensor([True, False]), torch.tensor([True, True]), False),
        (np.array([1.0, 2.0]), np.array([1.0, 2.0]), True),
        ([1, 2], [1, 3], False),
        (3, 3, True),
        (True, 1, False),
        (0.1 + 0.2, 0.3, False),
        ("centering", "centering", True),
        ("1", 1, False),
        (None, None, True),
    ],
)
def test_exact_is_bit_for_bit(reference: Any, subject: Any, same: bool) -> None:
    """The sign of zero, the type and the shape count; NaN equals NaN."""
    comparison = exact("x", reference, subject)
    assert (comparison.tier, comparison.passed, comparison.bitwise) == ("T0", same, same)


def _steps(value: float, count: int, dtype: torch.dtype) -> Tensor:
    tensor = torch.tensor([value], dtype=dtype)
    for _ in range(count):
        tensor = torch.nextafter(tensor, torch.full_like(tensor, 4 * value))
    return tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("value", [1.0, -1.5, 3e-20])
def test_ulp_counts_steps_to_the_neighbour(dtype: torch.dtype, count: int, value: float) -> None:
    """`count` calls of nextafter away within one binade are `count` units in the last place."""
    comparison = exact("x", torch.tensor([value], dtype=dtype), _steps(value, count, dtype))
    assert comparison.max_ulp == count
    assert not comparison.passed


def test_ulp_of_equal_floats_is_zero_and_of_integers_absent() -> None:
    """Integers have no units in the last place."""
    assert exact("x", torch.ones(2), torch.ones(2)).max_ulp == 0
    assert exact("x", 3, 4).max_ulp is None


def test_a_difference_names_how_many_elements_and_the_worst() -> None:
    """The element that is furthest in ulp is shown with its index, not the first that differs."""
    reference = torch.ones(2, 3)
    subject = reference.clone()
    subject[0, 1] = _steps(1.0, 1, torch.float32)[0]
    subject[1, 2] = 1.25
    comparison = exact("x", reference, subject, "a note")
    assert comparison.note == "a note; 2 of 6 elements differ, most at [1, 2]"
    assert (comparison.reference, comparison.subject) == ("1", "1.25")
    assert comparison.error == 0.25
    assert comparison.allowed == 0.0


def test_the_sign_of_zero_is_located() -> None:
    """Zeros of opposite sign are no units apart, and still the place is that of the zeros."""
    comparison = exact("x", torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, -0.0]))
    assert comparison.note == "1 of 3 elements differ, most at [2]"
    assert (comparison.reference, comparison.subject) == ("0", "-0")


def test_infinities_beside_a_difference_do_not_disturb_it() -> None:
    """Inf - inf is no number, but equal infinities are no difference either: the error is that of the others."""
    comparison = exact("x", torch.tensor([INF, NAN, 1.0]), torch.tensor([INF, NAN, 1.5]))
    assert comparison.error == 0.5
    assert comparison.note.endswith("most at [2]")


def test_nan_against_a_number_is_infinitely_far() -> None:
    """A NaN on one side alone has no finite distance."""
    comparison = exact("x", torch.tensor([NAN, 1.0]), torch.tensor([0.0, 1.0]))
    assert comparison.max_ulp == INF
    assert comparison.error == INF


def test_shapes_and_types_are_shown() -> None:
    """A shape or type mismatch shows both, since no element can be."""
    comparison = exact("x", torch.ones(2, 3), torch.ones(3, 2, dtype=torch.float64))
    assert (comparison.reference, comparison.subject) == ("float32 (2, 3)", "float64 (3, 2)")
    narrow = exact("x", torch.ones(1, dtype=torch.bfloat16), torch.ones(1))
    assert (narrow.reference, narrow.subject) == ("torch.bfloat16", "torch.float32")


def test_gradient_tensors_can_be_compared() -> None:
    """A tensor that requires a gradient is compared by its values."""
    assert exact("x", torch.ones(2, requires_grad=True), torch.ones(2)).passed


def test_mappings_are_compared_key_by_key() -> None:
    """Missing and extra keys fail, each with its own name, and the others are compared."""
    results = exact_mapping("config", {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 4})
    assert [(c.name, c.passed) for c in results] == [
        ("config/a", True),
        ("config/b", False),
        ("config/c", False),
        ("config/d", False),
    ]
    assert (results[2].note, results[3].note) == ("the subject lacks it", "only the subject has it")


def test_missing_says_which_side_lacks_it() -> None:
    """An unmatched artefact is a failed comparison of the given tier."""
    ours, theirs = missing("x", in_subject=True), missing("x", in_subject=False, tier="T1")
    assert (ours.reference, ours.subject, ours.tier, ours.passed) == ("missing", "present", "T0", False)
    assert (theirs.reference, theirs.subject, theirs.tier, theirs.passed) == ("present", "missing", "T1", False)


def _judge(base: Tensor, subject: Tensor, noise: Noise, tier: Tier = "T1") -> tuple[bool, str]:
    factor = SEMANTIC_FACTOR if tier == "T1" else PRECISION_FACTOR
    comparison = judged("x", tier, base, subject, noise, factor)
    return comparison.passed, comparison.note


def test_factors_are_the_documented_ones() -> None:
    """16 times the noise in fp64, 8 times in fp32."""
    assert (SEMANTIC_FACTOR, PRECISION_FACTOR) == (16.0, 8.0)


def test_t1_allows_exactly_sixteen_times_the_noise() -> None:
    """With a base of zeros the difference is exact: 16 x 2^-30 passes, the next float64 does not."""
    base, noise = torch.zeros(4, dtype=torch.float64), Noise(2.0**-30, 2.0**-30)
    at = torch.full_like(base, 16 * 2.0**-30)
    assert _judge(base, at, noise) == (True, "")
    beyond = torch.nextafter(at, torch.ones_like(at))
    assert not _judge(base, beyond, noise)[0]
    comparison = judged("x", "T1", base, at, noise, SEMANTIC_FACTOR)
    assert comparison.error == comparison.allowed == 2.0**-26


def test_one_large_element_fails_although_the_rms_is_small() -> None:
    """RMS of one element d among n is d / sqrt(n): the separate bound on the largest element catches it."""
    base = torch.zeros(10_000, dtype=torch.float64)
    subject = base.clone()
    subject[77] = 20.0
    noise = Noise(1.0, 1.0)
    passed, note = _judge(base, subject, noise)
    assert not passed
    assert note == "largest element 20, allowed 16"
    subject[77] = 16.0
    assert _judge(base, subject, noise)[0]


def test_many_small_differences_fail_although_none_is_large() -> None:
    """17 everywhere is within 16 x the largest movement of 100, but not within 16 x the RMS of 1."""
    base = torch.zeros(4, dtype=torch.float64)
    assert not _judge(base, base + 17, Noise(1.0, 100.0))[0]
    assert _judge(base, base + 16, Noise(1.0, 100.0))[0]


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float64, 2.0**-53), (torch.float32, 2.0**-24)])
def test_without_noise_half_a_unit_of_the_result_is_the_floor(dtype: torch.dtype, unit: float) -> None:
    """Silence of the reference allows factor times half an epsilon of the base's RMS, here 1."""
    base = torch.ones(3, dtype=torch.float64)
    comparison = judged("x", "T1", base, base.to(dtype), Noise(0.0, 0.0), SEMANTIC_FACTOR)
    assert comparison.passed
    assert comparison.error == 0.0
    assert comparison.allowed == 16 * unit


def test_t2_is_one_sided() -> None:
    """Fp32 more accurate than the reference's passes, and eight times as far passes, nine times does not."""
    base = torch.zeros(4, dtype=torch.float64)
    own = Noise(2.0**-20, 2.0**-20)
    for factor, passes in ((0.0, True), (0.5, True), (8.0, True), (9.0, False)):
        subject = torch.full((4,), factor * 2.0**-20)
        assert _judge(base, subject, own, "T2")[0] is passes


@pytest.mark.parametrize(
    ("left", "right", "passes"),
    [
        ([NAN, 1.0], [NAN, 1.0], True),
        ([INF, -INF, 1.0], [INF, -INF, 1.0], True),
        ([NAN, 1.0], [1.0, NAN], False),
        ([INF, 1.0], [-INF, 1.0], False),
        ([INF, 1.0], [NAN, 1.0], False),
        ([1.0, 1.0], [NAN, 1.0], False),
        ([1.0, 1.0], [1.0, INF], False),
        ([NAN, NAN], [NAN, NAN], True),
    ],
)
def test_non_finite_values_must_stand_at_the_same_places(left: list[float], right: list[float], passes: bool) -> None:
    """However large the noise, NaN and infinities are not a matter of size."""
    double = torch.float64
    passed, note = _judge(torch.tensor(left, dtype=double), torch.tensor(right, dtype=double), Noise(1e9, 1e9))
    assert passed is passes
    assert (note == "not finite at different places") is not passes


def test_empty_tensors_are_equal() -> None:
    """No element differs; a batch without masked patches compares so."""
    empty = torch.zeros(0, 5, dtype=torch.float64)
    comparison = judged("x", "T1", empty, empty.clone(), Noise(0.0, 0.0), SEMANTIC_FACTOR)
    assert comparison.passed
    assert comparison.bitwise
    assert (comparison.reference, comparison.subject) == ("empty", "empty")


def test_judged_refuses_another_shape() -> None:
    """No broadcasting: (3, 1) is not (3,)."""
    passed, note = _judge(torch.ones(3, 1).double(), torch.ones(3).double(), Noise(1e9, 1e9))
    assert (passed, note) == (False, "shapes differ")


def test_bitwise_needs_one_type() -> None:
    """Equal fp64 tensors are bitwise equal; a float32 beside the fp64 base is not called so."""
    base = torch.ones(2, dtype=torch.float64)
    assert judged("x", "T1", base, base.clone(), Noise(0, 0), 16.0).bitwise
    assert not judged("x", "T2", base, base.float(), Noise(0, 0), 8.0).bitwise


def test_the_worst_element_is_shown() -> None:
    """Both sides' values where the difference is largest."""
    base = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    comparison = judged("x", "T1", base, base + torch.tensor([0.0, 0.5, -0.25]), Noise(0, 0), 16.0)
    assert (comparison.reference, comparison.subject) == ("2", "2.5")


def test_noise_is_measured_by_rms_and_largest() -> None:
    """Differences 3 and 4: RMS sqrt(12.5), largest 4; joining takes the larger of each."""
    noise = Noise.between(torch.tensor([3.0, -4.0]), torch.zeros(2, dtype=torch.float64))
    assert noise.rms == pytest.approx(math.sqrt(12.5), rel=1e-15)
    assert noise.largest == 4.0
    assert Noise(1.0, 5.0).joined(Noise(2.0, 3.0)) == Noise(2.0, 5.0)


def test_noise_ignores_what_is_not_finite() -> None:
    """A NaN in both runs is no movement."""
    assert Noise.between(torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0])) == Noise(0.0, 0.0)
