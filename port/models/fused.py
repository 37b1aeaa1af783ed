"""Layers of a block in one piece each, with gradients written by hand: what `kernels=fast` computes.

A chain of layers keeps the output of each for the backward pass. The functions here keep what came in and make the
rest again: a layer norm or a GELU costs little beside the matrix product that follows it, and memory that is not kept
need not be fetched from the system. They are the same functions as the layers, but for rounding.

Shapes: T tokens, D and E features, H heads, d = D / H, b sequences of n tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from port.derivatives import refuse_second_derivative
from port.losses.precision import autocast_off, product_dtype

__all__ = ["norm_linear", "scaled_linear", "split_heads"]

HALF = (torch.float16, torch.bfloat16)
CHUNK_ROWS = 512
"""Tokens whose GELU a CPU makes at once: few enough for its cache, enough for a matrix product."""


def norm_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear) -> Tensor:
    """Return `linear(norm(x))`, keeping x and two numbers per token.

    Args:
        x: (T, D). Under autocast the norm is computed in the wider type of x and its weights, and the linear in
            autocast's, as the two layers are.
        norm: over D, with weight and bias.
        linear: from D to E, with or without bias.

    Returns:
        (T, E). It can be differentiated once: to differentiate its gradient is a RuntimeError.
    """
    dtype = product_dtype(linear.weight)
    with autocast_off(x.device):
        x = x.to(torch.promote_types(x.dtype, norm.weight.dtype))
        weight, bias = _cast(linear.weight, dtype), _cast(linear.bias, dtype)
        y: Tensor = _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, weight, bias)
    return y


def scaled_linear(
    inputs: Sequence[Tensor], linear: nn.Linear, gamma: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    """Return `gamma * linear(gelu(x))` of all inputs x, end to end, keeping the inputs only.

    In full precision gamma multiplies the linear's weight, which is smaller than its output. In half precision 1e-5 of
    a weight is lost: there the output is multiplied, in gamma's precision.

    Args:
        inputs: at least one (T_i, D), of one dtype. Under autocast the linear is computed in autocast's.
        linear: from D to E, with or without bias.
        gamma: the factors (E,) of a LayerScale; None for 1.
        gelu: whether there is a GELU; else `gamma * linear(x)`.

    Returns:
        (T_1 + T_2 + ..., E), in the dtype of the product. It can be differentiated once: to differentiate its gradient
        is a RuntimeError.
    """
    dtype = product_dtype(linear.weight)
    with autocast_off(inputs[0].device):
        weight, bias = _cast(linear.weight, dtype), _cast(linear.bias, dtype)
        folded = None if weight.dtype in HALF else gamma
        y: Tensor = _ScaledLinear.apply(weight, bias, folded, gelu, *inputs)
        return y if gamma is None or folded is not None else y * gamma


def split_heads(qkv: Tensor, shapes: Sequence[tuple[int, int]], num_heads: int) -> list[tuple[Tensor, ...]]:
    """Cut queries, keys and values out of packed sequences; their gradients are written to one tensor.

    Args:
        qkv: (T, 3 D), contiguous.
        shapes: (sequences b, tokens n of each) along T; together they are T tokens.
        num_heads: H.

    Returns:
        For each shape views q, k and v, (b, H, n, d).
    """
    flat = _SplitHeads.apply(qkv, tuple(shapes), num_heads)
    return [tuple(flat[i : i + 3]) for i in range(0, len(flat), 3)]


def _cast(parameter: Any, dtype: torch.dtype) -> Any:
    return None if parameter is None else parameter.to(dtype)


class _NormLinear(torch.autograd.Function):
    """The function of `norm_linear`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], scale, shift, eps)
        ctx.save_for_backward(x, mean, rstd, scale, shift, weight)
        ctx.eps = eps
        return functional.linear(normed.to(weight.dtype), weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        x, mean, rstd, scale, shift, weight = ctx.saved_tensors
        need_x, need_scale, need_shift, _, need_weight, need_bias = ctx.needs_input_grad
        dx = dscale = dshift = dweight = None
        with autocast_off(x.device):
            if need_weight:
                normed = torch.native_layer_norm(x, x.shape[-1:], scale, shift, ctx.eps)[0]
                dweight = dy.t() @ normed.to(dy.dtype)
            dbias = dy.sum(0) if need_bias else None
            if need_x or need_scale or need_shift:
                dnormed = (dy @ weight).to(x.dtype)
                dx, dscale, dshift = torch.ops.aten.native_layer_norm_backward(
                    dnormed, x, x.shape[-1:], mean, rstd, scale, shift, [need_x, need_scale, need_shift]
                )
        return dx, dscale, dshift, None, dweight, dbias


class _ScaledLinear(torch.autograd.Function):
    """The function of `scaled_linear`, but for gamma in half precision."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor | None, gamma: Tensor | None, gelu: bool, *inputs: Tensor
    ) -> Tensor:
        # The folded weight is not kept: a sharding wrapper frees the weights themselves until the backward pass.
        ctx.save_for_backward(weight, bias, gamma, *inputs)
        ctx.gelu = gelu
        folded, shift = _fold(weight, gamma), _fold(bias, gamma)
        y = inputs[0].new_empty(sum(len(x) for x in inputs), len(weight), dtype=weight.dtype)
        chunks = _chunks(inputs, gelu)
        for x, out in zip(chunks, y.split([len(x) for x in chunks]), strict=True):
            if shift is None:
                torch.mm(_activated(x, gelu, weight.dtype), folded.t(), out=out)
            else:
                torch.addmm(shift, _activated(x, gelu, weight.dtype), folded.t(), out=out)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        weight, bias, gamma, *inputs = ctx.saved_tensors
        need_weight, need_bias, need_gamma, _, *need_inputs = ctx.needs_input_grad
        with autocast_off(dy.device):
            folded = _fold(weight, gamma)
            # of dy and the linear's input: the weight's gradient, were gamma 1
            product = torch.zeros_like(weight) if need_weight or need_gamma else None
            dinputs = [torch.empty_like(x) for x in inputs] if any(need_inputs) else None
            chunks = _chunks(inputs, ctx.gelu)
            places = chunks if dinputs is None else _chunks(dinputs, ctx.gelu)
            for x, dx, part in zip(chunks, places, dy.split([len(x) for x in chunks]), strict=True):
                if product is not None:
                    # Not in place: torch's counter of FLOPs does not know that.
                    torch.addmm(product, part.t(), _activated(x, ctx.gelu, dy.dtype), out=product)
                if dinputs is not None:
                    _input_gradient(part, folded, x if ctx.gelu else None, dx)
            total = dy.sum(0) if need_bias or (need_gamma and bias is not None) else None
            dgamma = None
            if need_gamma:
                dgamma = torch.linalg.vecdot(weight, product)
                dgamma = dgamma if bias is None else dgamma + bias * total
            dweight = _fold(product, gamma) if need_weight else None
            dbias = _fold(total, gamma) if need_bias else None
        return dweight, dbias, dgamma, None, *(dinputs or (None for _ in inputs))


def _input_gradient(dy: Tensor, weight: Tensor, gelu_of: Tensor | None, dx: Tensor) -> None:
    """Write the gradient by a linear's input, or by what a GELU makes it of, into dx."""
    if dx.dtype == dy.dtype:
        torch.mm(dy, weight, out=dx)
    else:
        dx.copy_(dy @ weight)
    if gelu_of is not None:
        torch.ops.aten.gelu_backward.grad_input(dx, gelu_of, grad_input=dx)


def _chunks(tensors: Sequence[Tensor], gelu: bool) -> list[Tensor]:
    """Cut tensors (T_i, D) whose GELU is made on a CPU, so that it stays in the cache; others stay whole."""
    if not gelu or tensors[0].device.type != "cpu" or torch.compiler.is_compiling():
        return list(tensors)
    return [chunk for tensor in tensors for chunk in tensor.split(CHUNK_ROWS)]


def _activated(x: Tensor, gelu: bool, dtype: torch.dtype) -> Tensor:
    return (functional.gelu(x) if gelu else x).to(dtype)


def _fold(weight: Any, gamma: Tensor | None) -> Any:
    """Multiply a linear's weight (E, D) or bias (E,), if any, by gamma (E,), if any."""
    if weight is None or gamma is None:
        return weight
    return weight * (gamma.unsqueeze(1) if weight.dim() == 2 else gamma)


class _SplitHeads(torch.autograd.Function):
    """The function of `split_heads`."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, shapes: tuple[tuple[int, int], ...], num_heads: int) -> tuple[Tensor, ...]:
        ctx.shapes, ctx.num_heads = shapes, num_heads
        return _heads(qkv, shapes, num_heads)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        tokens = sum(b * n for b, n in ctx.shapes)
        _, heads, _, width = gradients[0].shape
        dqkv = gradients[0].new_empty(tokens, 3 * heads * width)
        for place, gradient in zip(_heads(dqkv, ctx.shapes, ctx.num_heads), gradients, strict=True):
            place.copy_(gradient)
        return dqkv, None, None


def _heads(qkv: Tensor, shapes: Sequence[tuple[int, int]], num_heads: int) -> tuple[Tensor, ...]:
    """Return q, k and v of each shape, one after another, as views (b, H, n, d) of qkv (T, 3 D)."""
    views: list[Tensor] = []
    for part, (b, n) in zip(qkv.split([b * n for b, n in shapes]), shapes, strict=True):
        views.extend(part.view(b, n, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind())
    return tuple(views)
