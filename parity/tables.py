"""Comparison of table rows: numbers that a schedule or a parameter group fixes, not a sum of many terms.

Where the subject claims official's operations the rows must be equal bit for bit (T0). Elsewhere the same
number may be computed in another order, `lr * decay ** k` as a running product for instance, so rows are
compared to twelve digits (T1): a real difference in a rate is never that small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.compare import exact
from parity.results import Comparison

__all__ = ["RELATIVE", "row"]

RELATIVE = 1e-12


def row(
    name: str, reference: Sequence[float], subject: Sequence[float], *, bitwise: bool, note: str = ""
) -> Comparison:
    """Compare one row of float64 numbers.

    Args:
        name: of the row.
        reference: official's numbers.
        subject: the subject's, in the same order.
        bitwise: whether the subject claims official's operations in official's order.
        note: shown beside the row.
    """
    left, right = np.asarray(reference, dtype=np.float64), np.asarray(subject, dtype=np.float64)
    strict = exact(name, left, right, note)
    if left.shape == right.shape and left.size <= 4:
        strict = _spelled(strict, left, right)
    if bitwise or strict.bitwise or left.shape != right.shape:
        return strict
    with np.errstate(invalid="ignore"):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        error = np.where(same, 0.0, np.abs(left - right))
        allowed = RELATIVE * np.maximum(np.abs(left), np.abs(right))
        worst = int(np.argmax(error - allowed)) if error.size else 0
    # An infinite number allows an infinite error: only a finite one is judged by its size.
    passed = bool((same | (np.isfinite(error) & (error <= allowed))).all())
    return Comparison(
        name,
        "T1",
        passed,
        bitwise=False,
        max_ulp=strict.max_ulp,
        error=float(error.flat[worst]),
        allowed=float(allowed.flat[worst]),
        reference=strict.reference,
        subject=strict.subject,
        note=strict.note,
    )


def _spelled(comparison: Comparison, left: np.ndarray, right: np.ndarray) -> Comparison:
    """Show short rows whole: `lr 0.004, wd 0.4` says more than the element that differs most."""
    return Comparison(
        comparison.name,
        comparison.tier,
        comparison.passed,
        comparison.bitwise,
        comparison.max_ulp,
        comparison.error,
        comparison.allowed,
        ", ".join(f"{v:.6g}" for v in left),
        ", ".join(f"{v:.6g}" for v in right),
        comparison.note,
    )
