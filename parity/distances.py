"""Distances between arrays: bits, units in the last place, root mean square; and how values are spelled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "as_array",
    "describe",
    "differs",
    "distance",
    "equal",
    "rms",
    "same_where_not_finite",
    "sample",
    "spell",
    "ulps",
    "worst_pair",
]


def as_array(value: Any) -> np.ndarray | None:
    """View a tensor, array, number or sequence of numbers as an array; None where it is none of these."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return np.asarray((value.to(torch.float32) if value.dtype is torch.bfloat16 else value).numpy())
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        return np.asarray(value)
    if isinstance(value, list | tuple) and all(isinstance(v, bool | int | float) for v in value):
        return np.asarray(value)
    return None


def differs(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return where two arrays of one dtype and shape differ in any bit; NaN equals NaN."""
    if left.dtype.kind != "f":
        return np.asarray(left != right, dtype=bool)
    bits = np.dtype(f"i{left.dtype.itemsize}")
    different = np.ascontiguousarray(left).view(bits) != np.ascontiguousarray(right).view(bits)
    different = different.reshape(left.shape)
    if different.any():
        different &= ~(np.isnan(left) & np.isnan(right))
    return np.asarray(different, dtype=bool)


def ulps(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the larger operand; infinite where one side is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.maximum(np.abs(left), np.abs(right))
        unit = np.spacing(np.where(np.isfinite(size), size, 1.0).astype(left.dtype))
        apart = np.abs(left.astype(np.float64) - right.astype(np.float64)) / unit.astype(np.float64)
    apart = np.where(np.isnan(left) & np.isnan(right), 0.0, apart)
    apart = np.where(left == right, 0.0, apart)
    return np.where(np.isfinite(apart), apart, np.inf)


def equal(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors of one dtype and shape are equal bit for bit; NaN equals NaN."""
    return not differs(left.detach().cpu().numpy(), right.detach().cpu().numpy()).any()


def same_where_not_finite(left: Tensor, right: Tensor) -> bool:
    """Whether NaN, inf and -inf stand at the same places on both sides."""
    if _is_finite(left) and _is_finite(right):
        return True
    special = ~(left.isfinite() & right.isfinite())
    return bool(torch.isclose(left[special].double(), right[special].double(), equal_nan=True).all())


def rms(values: Tensor) -> float:
    """Return the root mean square of the finite elements; 0 where there are none."""
    finite = _finite(values.detach().double())
    return float(finite.square().mean().sqrt()) if finite.numel() else 0.0


def distance(left: Tensor, right: Tensor) -> tuple[float, float]:
    """RMS and largest element of the difference where both are finite."""
    left, right = left.detach(), right.detach()
    if _identical(left, right):
        return 0.0, 0.0
    difference = _finite(left.double() - right.double())
    if not difference.numel():
        return 0.0, 0.0
    return float(difference.square().mean().sqrt()), float(difference.abs().max())


def _identical(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of one dtype have equal values throughout; NaN equals nothing."""
    return left.dtype == right.dtype and torch.equal(left, right)


def _is_finite(values: Tensor) -> bool:
    """Whether every element is; the sum is not where one is not, and takes a fraction of the time to ask each."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _finite(values: Tensor) -> Tensor:
    """Return the finite elements: `values` itself where all are, since a selection is a copy."""
    return values if _is_finite(values) else values[values.isfinite()]


def worst_pair(base: Tensor, subject: Tensor) -> tuple[str, str]:
    """Return both values, spelled, at the element that differs most."""
    if not base.numel():
        return "empty", "empty"
    where = 0
    if not (_identical(base, subject) and _is_finite(base)):
        difference = (base.detach().double() - subject.detach().double()).abs().flatten()
        where = int(torch.nan_to_num(difference, nan=math.inf).argmax())
    return spell(base.flatten()[where].item()), spell(subject.flatten()[where].item())


def describe(array: np.ndarray) -> str:
    """Return dtype and shape, or dtype and value of a scalar."""
    return f"{array.dtype} {array.shape}" if array.shape else f"{array.dtype} {spell(array[()])}"


def sample(array: np.ndarray) -> str:
    """Return the value of a scalar, or dtype and shape."""
    return spell(array[()]) if array.ndim == 0 else describe(array)


def spell(value: Any) -> str:
    """Return a number in nine digits, anything else as it prints."""
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value:.9g}" if isinstance(value, float) else str(value)
