"""What is kept of a tensor's content: moments, which no rearrangement changes, and a projection, which any does.

Fingerprints are taken in float64 of tensors that the oracle keeps in float64, so that two sides which compute the same
thing in another order differ by rounding, about 1e-15 of the tensor's size, and a difference in meaning does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CLOSE", "Fingerprint", "Index", "fingerprint"]

CLOSE = 1e-9
"""Relative distance of moments up to which two contents are the same: rounding in fp64, through a deep network."""

_PERIOD = 10_007  # a prime, so that rows of a tensor do not repeat the coefficients


@dataclass(frozen=True)
class Fingerprint:
    """The content of one tensor.

    Attributes:
        numel: number of elements.
        rms: root of their mean square.
        moments: mean, mean of absolute values, cube root of the mean cube, smallest and largest.
        projection: mean of the elements times fixed coefficients, in their order.
        discrete: whether they are whole numbers: indices, whose order is their meaning.
    """

    numel: int
    rms: float
    moments: tuple[float, ...]
    projection: float
    discrete: bool = False

    def vector(self) -> tuple[float, ...]:
        """Return what decides whether two contents are the same but for their arrangement."""
        return (self.rms, *self.moments)

    def arranged(self) -> tuple[float, ...]:
        """Return what decides whether two contents are the same in the same arrangement."""
        return (*self.vector(), self.projection)


def fingerprint(tensor: Tensor) -> Fingerprint:
    """Return the fingerprint of a tensor of any shape and dtype; the tensor is only read."""
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    discrete = not (real.is_floating_point() or real.dtype is torch.bool)
    x = real.to(torch.float64).cpu().numpy().ravel()
    if x.size == 0:
        return Fingerprint(0, 0.0, (0.0,) * 5, 0.0, discrete)
    # NumPy, as a call of torch costs many times as much under the modes that are active while recording.
    with np.errstate(invalid="ignore", over="ignore"):
        square = x * x
        sums = (x.sum(), np.abs(x).sum(), (square * x).sum(), (x * _coefficients(x.size)).sum())
        mean, absolute, cube, projection = (float(value) / x.size for value in sums)
        moments = (mean, absolute, float(np.cbrt(cube)), float(x.min()), float(x.max()))
        return Fingerprint(x.size, float(np.sqrt(square.sum() / x.size)), moments, projection, discrete)


@lru_cache(maxsize=256)
def _coefficients(count: int) -> NDArray[np.float64]:
    return np.resize(np.random.default_rng(6).standard_normal(_PERIOD), count)


class Index:
    """The contents that one side has, to be asked whether it has one.

    Args:
        prints: of every tensor that an operation of that side read or wrote.
        arranged: whether the order of elements counts.
    """

    def __init__(self, prints: Iterable[Fingerprint], *, arranged: bool = False) -> None:
        self._vector = Fingerprint.arranged if arranged else Fingerprint.vector
        grouped: dict[int, set[tuple[float, ...]]] = {}
        for item in prints:
            grouped.setdefault(item.numel, set()).add(self._vector(item))
        self._rows = {numel: np.array(sorted(rows)) for numel, rows in grouped.items()}
        self._answers: dict[Fingerprint, bool] = {}

    def has(self, item: Fingerprint) -> bool:
        """Return whether the side has a tensor of this content; one without elements it always has."""
        if item.numel == 0:
            return True
        if item not in self._answers:
            self._answers[item] = self._found(item)
        return self._answers[item]

    def _found(self, item: Fingerprint) -> bool:
        rows = self._rows.get(item.numel)
        if rows is None:
            return False
        vector = np.array(self._vector(item))
        if not np.isfinite(vector).all():
            return bool((np.nan_to_num(rows) == np.nan_to_num(vector)).all(axis=1).any())
        with np.errstate(invalid="ignore"):
            return bool((np.abs(rows - vector) <= CLOSE * item.rms).all(axis=1).any())
