"""The three rules that decide, and the distances that they measure.

- T0 exact: equal bit for bit (NaN equals NaN). Masks, indices, keys, shapes, schedules, parameter tables, and
  floats wherever the subject claims official's operations in official's order.
- T1 semantic: both sides in fp64; the RMS of the difference is at most 16 times the largest effect on the
  reference of perturbing its inputs and weights by 4 units of 2^-53, and so is the largest element.
- T2 precision: the subject in fp32 is at most 8 times as far from the reference's fp64 result as the
  reference's own fp32 result, or its fp32 result under perturbation. One-sided: more accurate passes.

A fourth, T4, judges random draws that no seed aligns by their distribution: see `parity.permutation`.

The factors separate 36 injected faults (at least 10^4 times the noise) from 11 legitimate rewrites (at most
5.8 times) on official modules over ten seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity import distances
from parity.results import Comparison, Tier

__all__ = ["PRECISION_FACTOR", "SEMANTIC_FACTOR", "Noise", "exact", "exact_mapping", "judged", "missing"]

SEMANTIC_FACTOR = 16.0
PRECISION_FACTOR = 8.0


@dataclass(frozen=True)
class Noise:
    """How far the reference itself moves under perturbations too small to mean anything.

    Attributes:
        rms: root mean square of the largest movement over the replicates.
        largest: largest element of the movement over the replicates.
    """

    rms: float
    largest: float

    def joined(self, other: Noise) -> Noise:
        """Return the larger of both, measure by measure."""
        return Noise(max(self.rms, other.rms), max(self.largest, other.largest))

    @classmethod
    def between(cls, moved: Tensor, base: Tensor) -> Noise:
        """Measure the movement of `moved` from `base`, both of any float type and equal shape."""
        return cls(*distances.distance(moved, base))


def exact(name: str, reference: Any, subject: Any, note: str = "") -> Comparison:
    """Compare two values bit for bit (T0): tensors, arrays, numbers, strings, or sequences of these.

    Shape and dtype are part of a tensor's value.
    """
    left, right = distances.as_array(reference), distances.as_array(subject)
    if left is None or right is None:
        same = type(reference) is type(subject) and bool(reference == subject)
        return _verdict(name, same, reference=str(reference), subject=str(subject), note=note)
    if left.dtype != right.dtype or left.shape != right.shape:
        return _verdict(name, False, reference=distances.describe(left), subject=distances.describe(right), note=note)
    if isinstance(reference, Tensor) and isinstance(subject, Tensor) and reference.dtype is not subject.dtype:
        # NumPy has no bfloat16: as arrays, such a tensor and a float32 one would look alike.
        return _verdict(name, False, reference=str(reference.dtype), subject=str(subject.dtype), note=note)
    different = distances.differs(left, right)
    if not different.any():
        ulp = 0.0 if left.dtype.kind == "f" else None
        return _verdict(
            name, True, reference=distances.sample(left), subject=distances.sample(right), ulp=ulp, note=note
        )
    return _inexact(name, left, right, different, note)


def _inexact(name: str, left: np.ndarray, right: np.ndarray, differs: np.ndarray, note: str) -> Comparison:
    """Describe the element that differs most, and how many do."""
    ulp, error, where = None, None, int(np.flatnonzero(differs)[0])
    if left.dtype.kind == "f":
        apart = np.where(differs, distances.ulps(left, right), -1.0)
        ulp = float(apart.max())
        where = int(apart.argmax())
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.abs(left[differs].astype(np.float64) - right[differs].astype(np.float64))
        error = float(np.where(np.isnan(gaps), np.inf, gaps).max())
    index = tuple(int(i) for i in np.unravel_index(where, left.shape))
    place = f"{int(differs.sum())} of {left.size} elements differ, most at {list(index)}" if index else note
    return _verdict(
        name,
        False,
        reference=distances.spell(left[index]),
        subject=distances.spell(right[index]),
        ulp=ulp,
        error=error,
        note=f"{note}; {place}" if note and index else place,
    )


def exact_mapping(prefix: str, reference: Mapping[str, Any], subject: Mapping[str, Any]) -> list[Comparison]:
    """Compare two mappings key by key (T0); a missing or extra key is a failure."""
    results = []
    for key in [*reference, *(k for k in subject if k not in reference)]:
        if key in reference and key in subject:
            results.append(exact(f"{prefix}/{key}", reference[key], subject[key]))
        else:
            results.append(missing(f"{prefix}/{key}", in_subject=key in subject))
    return results


def missing(name: str, *, in_subject: bool, tier: Tier = "T0") -> Comparison:
    """An artefact that only one side has: a failure, not a skip."""
    present, absent = "present", "missing"
    return Comparison(
        name,
        tier,
        passed=False,
        bitwise=False,
        reference=absent if in_subject else present,
        subject=present if in_subject else absent,
        note="only the subject has it" if in_subject else "the subject lacks it",
    )


def judged(
    name: str,
    tier: Tier,
    base: Tensor,
    subject: Tensor,
    noise: Noise,
    factor: float,
    *,
    same_precision: Tensor | None = None,
) -> Comparison:
    """Compare floats by size (T1 and T2): RMS and largest element against `factor` times the noise.

    Args:
        name: what is compared.
        tier: T1 or T2.
        base: the reference's fp64 result.
        subject: the subject's result, fp64 for T1, fp32 for T2.
        noise: what the reference itself does, see the module docstring.
        factor: `SEMANTIC_FACTOR` or `PRECISION_FACTOR`.
        same_precision: the reference's result in the subject's precision, which says whether both are equal bit
            for bit; None where `base` is it.
    """
    if base.shape != subject.shape:
        return Comparison(
            name,
            tier,
            False,
            False,
            reference=str(tuple(base.shape)),
            subject=str(tuple(subject.shape)),
            note="shapes differ",
        )
    rms, largest = distances.distance(subject, base)
    # Half a unit in the last place of the result is unavoidable even where the perturbation cancels exactly.
    floor = 2.0 ** (-53 if subject.dtype is torch.float64 else -24) * distances.rms(base)
    allowed = factor * max(noise.rms, floor)
    allowed_largest = factor * max(noise.largest, floor)
    same_nan = distances.same_where_not_finite(base, subject)
    passed = same_nan and rms <= allowed and largest <= allowed_largest
    note = "" if same_nan else "not finite at different places"
    if same_nan and rms <= allowed < math.inf and largest > allowed_largest:
        note = f"largest element {largest:.3g}, allowed {allowed_largest:.3g}"
    twin = base if same_precision is None else same_precision
    bitwise = twin.dtype == subject.dtype and distances.equal(twin, subject)
    reference_text, subject_text = distances.worst_pair(base, subject)
    return Comparison(
        name,
        tier,
        passed,
        bitwise,
        error=rms,
        allowed=allowed,
        reference=reference_text,
        subject=subject_text,
        note=note,
    )


def _verdict(
    name: str,
    same: bool,
    *,
    reference: str,
    subject: str,
    ulp: float | None = None,
    error: float | None = None,
    note: str = "",
) -> Comparison:
    return Comparison(name, "T0", same, same, ulp, error, 0.0, reference, subject, note)
