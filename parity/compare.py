"""The three rules that decide, and the distances that they measure.

- T0 exact: equal bit for bit (NaN equals NaN). Masks, indices, keys, shapes, schedules, parameter tables, and
  floats wherever the subject claims official's operations in official's order.
- T1 semantic: both sides in fp64; the RMS of the difference is at most 16 times the largest effect on the
  reference of perturbing its inputs and weights by 4 units of 2^-53, and so is the largest element.
- T2 precision: the subject in fp32 is at most 8 times as far from the reference's fp64 result as the
  reference's own fp32 result, or its fp32 result under perturbation. One-sided: more accurate passes.

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
        return cls(*_distance(moved, base))


def exact(name: str, reference: Any, subject: Any, note: str = "") -> Comparison:
    """Compare two values bit for bit (T0): tensors, arrays, numbers, strings, or sequences of these.

    Shape and dtype are part of a tensor's value.
    """
    left, right = _as_array(reference), _as_array(subject)
    if left is None or right is None:
        same = type(reference) is type(subject) and bool(reference == subject)
        return _verdict(name, same, reference=str(reference), subject=str(subject), note=note)
    if left.dtype != right.dtype or left.shape != right.shape:
        return _verdict(name, False, reference=_describe(left), subject=_describe(right), note=note)
    if isinstance(reference, Tensor) and isinstance(subject, Tensor) and reference.dtype is not subject.dtype:
        # NumPy has no bfloat16: as arrays, such a tensor and a float32 one would look alike.
        return _verdict(name, False, reference=str(reference.dtype), subject=str(subject.dtype), note=note)
    differs = _differs(left, right)
    if not differs.any():
        ulp = 0.0 if left.dtype.kind == "f" else None
        return _verdict(name, True, reference=_sample(left), subject=_sample(right), ulp=ulp, note=note)
    return _inexact(name, left, right, differs, note)


def _inexact(name: str, left: np.ndarray, right: np.ndarray, differs: np.ndarray, note: str) -> Comparison:
    """Describe the element that differs most, and how many do."""
    ulp, error, where = None, None, int(np.flatnonzero(differs)[0])
    if left.dtype.kind == "f":
        distances = np.where(differs, _ulps(left, right), -1.0)
        ulp = float(distances.max())
        where = int(distances.argmax())
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.abs(left[differs].astype(np.float64) - right[differs].astype(np.float64))
        error = float(np.where(np.isnan(gaps), np.inf, gaps).max())
    index = tuple(int(i) for i in np.unravel_index(where, left.shape))
    place = f"{int(differs.sum())} of {left.size} elements differ, most at {list(index)}" if index else note
    return _verdict(
        name,
        False,
        reference=_format(left[index]),
        subject=_format(right[index]),
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


def judged(name: str, tier: Tier, base: Tensor, subject: Tensor, noise: Noise, factor: float) -> Comparison:
    """Compare floats by size (T1 and T2): RMS and largest element against `factor` times the noise.

    Args:
        name: what is compared.
        tier: T1 or T2.
        base: the reference's fp64 result.
        subject: the subject's result, fp64 for T1, fp32 for T2.
        noise: what the reference itself does, see the module docstring.
        factor: `SEMANTIC_FACTOR` or `PRECISION_FACTOR`.
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
    rms, largest = _distance(subject, base)
    # Half a unit in the last place of the result is unavoidable even where the perturbation cancels exactly.
    floor = 2.0 ** (-53 if subject.dtype is torch.float64 else -24) * _rms(base)
    allowed = factor * max(noise.rms, floor)
    allowed_largest = factor * max(noise.largest, floor)
    same_nan = _same_where_not_finite(base, subject)
    passed = same_nan and rms <= allowed and largest <= allowed_largest
    note = "" if same_nan else "not finite at different places"
    if same_nan and rms <= allowed < math.inf and largest > allowed_largest:
        note = f"largest element {largest:.3g}, allowed {allowed_largest:.3g}"
    bitwise = base.dtype == subject.dtype and bool(_equal(base, subject))
    reference_text, subject_text = _worst_pair(base, subject)
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


def _as_array(value: Any) -> np.ndarray | None:
    """View a tensor, array, number or sequence of numbers as an array; None where it is none of these."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return np.asarray((value.to(torch.float32) if value.dtype is torch.bfloat16 else value).numpy())
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        return np.asarray(value)
    if isinstance(value, list | tuple) and all(isinstance(v, bool | int | float) for v in value):
        return np.asarray(value)
    return None


def _differs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    if left.dtype.kind != "f":
        return np.asarray(left != right, dtype=bool)
    both_nan = np.isnan(left) & np.isnan(right)
    bits = np.dtype(f"i{left.dtype.itemsize}")
    different = np.ascontiguousarray(left).view(bits) != np.ascontiguousarray(right).view(bits)
    return np.asarray(different.reshape(left.shape) & ~both_nan, dtype=bool)


def _ulps(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the larger operand; infinite where one side is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.maximum(np.abs(left), np.abs(right))
        unit = np.spacing(np.where(np.isfinite(size), size, 1.0).astype(left.dtype))
        distance = np.abs(left.astype(np.float64) - right.astype(np.float64)) / unit.astype(np.float64)
    distance = np.where(np.isnan(left) & np.isnan(right), 0.0, distance)
    distance = np.where((left == right), 0.0, distance)
    return np.where(np.isfinite(distance), distance, np.inf)


def _equal(left: Tensor, right: Tensor) -> bool:
    return not _differs(left.detach().cpu().numpy(), right.detach().cpu().numpy()).any()


def _same_where_not_finite(left: Tensor, right: Tensor) -> bool:
    """Whether NaN, inf and -inf stand at the same places on both sides."""
    special = ~(left.isfinite() & right.isfinite())
    return bool(torch.isclose(left[special].double(), right[special].double(), equal_nan=True).all())


def _rms(values: Tensor) -> float:
    finite = values.detach().double()
    finite = finite[finite.isfinite()]
    return float(finite.square().mean().sqrt()) if finite.numel() else 0.0


def _distance(left: Tensor, right: Tensor) -> tuple[float, float]:
    """RMS and largest element of the difference where both are finite."""
    difference = left.detach().double() - right.detach().double()
    difference = difference[difference.isfinite()]
    if not difference.numel():
        return 0.0, 0.0
    return float(difference.square().mean().sqrt()), float(difference.abs().max())


def _worst_pair(base: Tensor, subject: Tensor) -> tuple[str, str]:
    if not base.numel():
        return "empty", "empty"
    difference = (base.detach().double() - subject.detach().double()).abs().flatten()
    where = int(torch.nan_to_num(difference, nan=math.inf).argmax())
    return _format(base.flatten()[where].item()), _format(subject.flatten()[where].item())


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}" if array.shape else f"{array.dtype} {_format(array[()])}"


def _sample(array: np.ndarray) -> str:
    return _format(array[()]) if array.ndim == 0 else _describe(array)


def _format(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value:.9g}" if isinstance(value, float) else str(value)
