"""Parts of a transformer block with at most one vector of weights.

Shapes: B batch, N tokens, D embedding dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["DropPath", "LayerScale", "gamma_of", "layer_norm"]

LAYER_NORM_EPS = 1e-6


def layer_norm(dim: int) -> nn.LayerNorm:
    """Return the LayerNorm that every part of the backbone uses: over D, epsilon 1e-6.

    Mirrors `dinov2/models/vision_transformer.py:96`.
    """
    return nn.LayerNorm(dim, eps=LAYER_NORM_EPS)


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor `gamma` (D,).

    Mirrors `dinov2/layers/layer_scale.py:15`.

    Args:
        dim: D.
        init_values: initial value of every element of `gamma`.
    """

    def __init__(self, dim: int, init_values: float = 1e-5) -> None:
        super().__init__()
        self.init_values = init_values
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set `gamma` to its initial value, also after `to_empty` on a model built on the meta device."""
        nn.init.constant_(self.gamma, self.init_values)

    def forward(self, x: Tensor) -> Tensor:
        """Scale x (..., D)."""
        return x * self.gamma


def gamma_of(scale: nn.Module) -> Tensor | None:
    """Return the factors (D,) of a LayerScale; None of the identity that stands where a block has none."""
    return scale.gamma if isinstance(scale, LayerScale) else None


class DropPath(nn.Module):
    """Zero a residual for whole samples, independently with probability `drop_prob`, while training.

    What survives is divided by the probability of surviving. Official uses this form only where tensors
    (not lists) meet rates of at most 0.1. Mirrors `dinov2/layers/drop_path.py:14`.

    Args:
        drop_prob: probability of dropping a sample, in [0, 1].
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, ...) with some samples zeroed; draws B Bernoulli numbers on x's device."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
        if keep_prob > 0.0:
            keep.div_(keep_prob)
        return x * keep

    def extra_repr(self) -> str:
        """Show the rate in `print(model)`."""
        return f"drop_prob={self.drop_prob}"
