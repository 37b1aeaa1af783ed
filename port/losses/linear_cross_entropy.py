"""Cross-entropy of soft targets, from the features before the last layer: its logits are never held all at once.

The logits of a step, rows x 65,536 numbers, and their gradient are the largest tensors of all. Here they are made for
some rows at a time, turned into their gradient where they stand, and multiplied with what they came from, so that the
product with the last layer's weight is not computed again in the backward pass. That works because what reaches the
backward pass is one number, by which the gradients are multiplied in the end.

Shapes: n students, B rows of targets, K prototypes, d features before the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from port.derivatives import refuse_second_derivative
from port.losses.cross_entropy import row_chunks
from port.losses.precision import autocast_off, product_dtype, widened

__all__ = ["CrossEntropyTerm", "linear_cross_entropy"]

HELD_ELEMENTS = {"cpu": 2**22}
"""Logits held at once by type of device: on a CPU 64 rows of 65,536, enough for a matrix product."""
HELD_ELEMENTS_ELSEWHERE = 2**26
PRODUCT_COLUMNS = {"cpu": 1024}
"""Columns of a product of few rows by type of device, all where not named: MKL is a third slower on all at once."""


class CrossEntropyTerm(NamedTuple):
    """One addend: `factor * value`, where `value = scale * sum_nb weights_b * cross_entropy(logits_nb, targets_b)`.

    Attributes:
        features: (n, B, d), whose products with the weight are the logits.
        targets: (B, K), of any sum; every student has the same. No gradient reaches them.
        temperature: of the logits, > 0.
        scale: a factor of the value.
        factor: of the value in the total.
        weights: (B,); None for 1. No gradient reaches them.
    """

    features: Tensor
    targets: Tensor
    temperature: float
    scale: float
    factor: float = 1.0
    weights: Tensor | None = None


def linear_cross_entropy(
    weight_v: Tensor, weight_g: Tensor, terms: Sequence[CrossEntropyTerm]
) -> tuple[Tensor, Tensor]:
    """Return the sum of the terms, and the value of each.

    Args:
        weight_v: directions (K, d) of the rows of a linear layer without bias; under autocast its products are of
            autocast's type.
        weight_g: their lengths (K, 1). In full precision logits are multiplied by `weight_g / |weight_v|`, so that the
            weight itself, as large as `weight_v`, is not made.
        terms: at least one.

    Returns:
        Scalar, float32 or float64, for one backward pass and no second derivative; and (terms,), without a gradient.

    Raises:
        ValueError: shapes do not fit, or a gradient of targets or weights is wanted.
    """
    for term in terms:
        _check(term, weight_v)
    features = [term.features for term in terms]
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (weight_v, weight_g, *features))
    fixed = [term._replace(features=term.features.detach()) for term in terms]
    dtype = product_dtype(weight_v)
    with autocast_off(weight_v.device):
        total, values = _LinearCrossEntropy.apply(weight_v, weight_g, fixed, dtype, wanted, *features)
    return total, values


def _check(term: CrossEntropyTerm, weight: Tensor) -> None:
    (K, d), B = weight.shape, len(term.targets)
    shapes = [tuple(term.features.shape[1:]), tuple(term.targets.shape)]
    if term.features.dim() != 3 or shapes != [(B, d), (B, K)] or (term.weights is not None and len(term.weights) != B):
        given = None if term.weights is None else tuple(term.weights.shape)
        raise ValueError(
            f"features {tuple(term.features.shape)}, targets {tuple(term.targets.shape)}, weights {given} and the last "
            f"layer {tuple(weight.shape)}; expected (n, B, d), (B, K), (B,) or None, and (K, d)"
        )
    if term.targets.requires_grad or (term.weights is not None and term.weights.requires_grad):
        raise ValueError("targets or weights require a gradient, which only kernels=official_order gives; detach them")


class _LinearCrossEntropy(torch.autograd.Function):
    """Both results of `linear_cross_entropy`; gradients are ready when the forward pass ends."""

    @staticmethod
    def forward(
        ctx: Any,
        weight_v: Tensor,
        weight_g: Tensor,
        terms: Sequence[CrossEntropyTerm],
        dtype: torch.dtype,
        wanted: bool,
        *features: Tensor,
    ) -> tuple[Tensor, Tensor]:
        layer = _Layer(weight_v, weight_g, dtype, wanted)
        results = [layer.add(term) for term in terms]
        values = torch.stack([value for value, _ in results])
        # Numbers, as a tensor of them would be copied to the device.
        weighted = [term.factor * value for term, value in zip(terms, values.unbind(), strict=True)]
        ctx.mark_non_differentiable(values)
        ctx.gradients = [*layer.gradients(), *(gradient for _, gradient in results)] if wanted else []
        # The inputs themselves are not needed, and the weight is large.
        ctx.dtypes = [weight_v.dtype, weight_g.dtype, *(x.dtype for x in features)]
        return torch.stack(weighted).sum(), values

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "kernels=fast keeps its gradients for one backward pass; kernels=official_order has more"
            )
        # In place, since the weight's is as large as the last layer.
        found = [g.mul_(upstream).to(dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True)]
        return *found[:2], None, None, None, *found[2:]


class _Layer:
    """The last layer, and the gradient of its weight, to which each term adds."""

    def __init__(self, weight_v: Tensor, weight_g: Tensor, dtype: torch.dtype, wanted: bool) -> None:
        self._wide = widened(weight_v[:0]).dtype
        self._v = weight_v
        self._norms = torch.linalg.vector_norm(weight_v, dim=1, keepdim=True, dtype=self._wide)
        self._scale = weight_g.to(self._wide) / self._norms  # (K, 1)
        # What products are taken with; rounded directions, of any length, could not be scaled as exactly.
        self._is_scaled = dtype != self._wide
        self._weight = (weight_v * self._scale if self._is_scaled else weight_v).to(dtype)
        self._wanted = wanted
        self._held: Tensor | None = None
        self._sum: Tensor | None = None

    def add(self, term: CrossEntropyTerm) -> tuple[Tensor, Tensor]:
        """Return a term's value, and its gradient by the features (n, B, d)."""
        n_students, n_rows, width = term.features.shape
        # At temperature 0 a loss that is not finite, as a division gives.
        cold = 1 / term.temperature if term.temperature else math.inf
        columns = cold if self._is_scaled else self._scale.t() * cold
        value = term.features.new_zeros((), dtype=self._wide)
        gradient = term.features.new_empty((n_students, n_rows, width) if self._wanted else (0,), dtype=self._wide)
        for rows in self._chunks(n_students, n_rows):
            features = term.features[:, rows].to(self._weight.dtype)
            targets = term.targets[rows]
            logits = self._logits(features.reshape(-1, width)).view(*features.shape[:2], -1)
            losses = _losses_and_gradients(logits, targets, columns, self._wanted)
            share = losses.new_full((len(targets),), term.scale)
            if term.weights is not None:
                share = share * term.weights[rows].to(self._wide)
            value += (losses * share).sum()
            if self._wanted:
                share = (share * (cold * term.factor)).expand(n_students, -1).unsqueeze(-1)
                self._accumulate(logits.flatten(0, 1), (features * share).flatten(0, 1))
                by_product = logits if self._is_scaled else logits.mul_(self._scale.t())
                gradient[:, rows] = torch.matmul(by_product, self._weight) * share
        return value, gradient

    def _chunks(self, n_students: int, n_rows: int) -> Iterator[slice]:
        elements = HELD_ELEMENTS.get(self._weight.device.type, HELD_ELEMENTS_ELSEWHERE)
        return row_chunks(n_rows, n_students * len(self._weight), self._weight.device, elements)

    def _logits(self, features: Tensor) -> Tensor:
        """Multiply features (R, d) with the weight, in memory that is used again: new memory costs a page at a time."""
        width = len(self._weight)
        if self._held is None or len(self._held) < len(features):
            self._held = features.new_empty((len(features), width))
        logits = self._held[: len(features)]
        columns = PRODUCT_COLUMNS.get(features.device.type, width)
        for part, rows in zip(logits.split(columns, dim=1), self._weight.split(columns), strict=True):
            torch.mm(features, rows.t(), out=part)
        return logits

    def _accumulate(self, by_logits: Tensor, features: Tensor) -> None:
        """Add a chunk's share (K, d) of the weight's gradient, which is kept in single precision at least."""
        features = features.to(by_logits.dtype)
        if self._sum is None:
            self._sum = torch.mm(by_logits.t(), features).to(self._wide)
        elif self._sum.dtype == by_logits.dtype:
            torch.addmm(self._sum, by_logits.t(), features, out=self._sum)
        else:
            self._sum.add_(torch.mm(by_logits.t(), features))

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return those of directions and lengths by the sum of all terms; zeros where none had rows.

        With W = g v / |v| and D the gradient by W: by g it is <D, v> / |v|, by v it is g / |v| of D less its part
        along v.
        """
        of_v = torch.zeros_like(self._v, dtype=self._wide) if self._sum is None else self._sum
        of_g = torch.empty_like(self._norms)
        for rows in row_chunks(len(of_v), of_v.shape[1], of_v.device):
            v, norms, part = self._v[rows].to(self._wide), self._norms[rows], of_v[rows]
            of_g[rows] = (part * v).sum(1, keepdim=True).div_(norms)
            part.addcmul_(v, of_g[rows] / norms, value=-1).mul_(self._scale[rows])
        return of_v, of_g


def _losses_and_gradients(logits: Tensor, targets: Tensor, columns: Tensor | float, wanted: bool) -> Tensor:
    """Return cross-entropies (n, B), and write softmax * mass - targets, if wanted, over the logits (n, B, K).

    `columns` (1, K), or a number, multiplies the logits first. In half precision the difference, at most the mass of
    the targets, is what a matrix product takes; small factors, which could underflow, are left to its other side.
    """
    n_students, n_rows, width = logits.shape
    wide = torch.promote_types(widened(logits[:0]).dtype, targets.dtype)
    losses = logits.new_empty((n_students, n_rows), dtype=wide)
    for rows in row_chunks(n_rows, n_students * width, logits.device):
        s, t = logits[:, rows].to(wide).mul_(columns), targets[rows].to(wide)
        mass = t.sum(-1)
        product = (s * t).sum(-1)
        largest = s.amax(-1)
        powers = s.sub_(largest.unsqueeze(-1)).exp_()
        total = powers.sum(-1)
        losses[:, rows] = mass * (total.log() + largest) - product
        if wanted:
            gradient = powers.mul_((mass / total).unsqueeze(-1)).sub_(t)
            if gradient.dtype != logits.dtype:
                logits[:, rows] = gradient
    return losses
