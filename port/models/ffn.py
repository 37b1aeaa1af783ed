"""Feed-forward layers of a block.

Shapes: D embedding dimension, F hidden features.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from port.models.fused import norm_linear, scaled_linear

__all__ = ["FFN_LAYERS", "Mlp", "SwiGLU", "build_ffn", "normed_ffn", "swiglu_hidden_features"]

FFN_LAYERS = ("mlp", "swiglu", "swiglufused", "identity")
"""What `student.ffn_layer` may say; `swiglu` and `swiglufused` are the same layer, as in official."""


class Mlp(nn.Module):
    """Linear, GELU, linear. Mirrors `dinov2/layers/mlp.py:16`.

    Args:
        in_features: D.
        hidden_features: F.
        bias: whether both linears have a bias.
    """

    def __init__(self, in_features: int, hidden_features: int, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features, bias=bias)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, in_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        x = self.fc1(x)  # (..., F)
        x = self.act(x)
        y: Tensor = self.fc2(x)
        return y


class SwiGLU(nn.Module):
    """Gated feed-forward: w3(silu(a) * b), where a and b are the halves of w12(x).

    Mirrors `dinov2/layers/swiglu_ffn.py:14` at the hidden size of `:66`.

    Args:
        in_features: D.
        hidden_features: F of an MLP of the same cost; see `swiglu_hidden_features`.
        bias: whether both linears have a bias.
    """

    def __init__(self, in_features: int, hidden_features: int, bias: bool = True) -> None:
        super().__init__()
        hidden_features = swiglu_hidden_features(hidden_features)
        self.w12 = nn.Linear(in_features, 2 * hidden_features, bias=bias)
        self.w3 = nn.Linear(hidden_features, in_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        gate, value = self.w12(x).chunk(2, dim=-1)  # 2 x (..., F)
        y: Tensor = self.w3(functional.silu(gate) * value)
        return y


def swiglu_hidden_features(mlp_hidden_features: int) -> int:
    """Return two thirds of an MLP's hidden size, rounded up to a multiple of 8.

    Three matrices of this size cost as much as an MLP's two. Mirrors `dinov2/layers/swiglu_ffn.py:66`.
    """
    return (int(mlp_hidden_features * 2 / 3) + 7) // 8 * 8


def build_ffn(ffn_layer: str, in_features: int, hidden_features: int, *, bias: bool) -> nn.Module:
    """Return the feed-forward layer that a configuration names.

    Mirrors `dinov2/models/vision_transformer.py:122-136`.

    Args:
        ffn_layer: one of `FFN_LAYERS`.
        in_features: D.
        hidden_features: F of the MLP form.
        bias: whether the linears have a bias.

    Raises:
        ValueError: `ffn_layer` is not one of `FFN_LAYERS`.
    """
    if ffn_layer == "mlp":
        return Mlp(in_features, hidden_features, bias=bias)
    if ffn_layer in ("swiglu", "swiglufused"):
        return SwiGLU(in_features, hidden_features, bias=bias)
    if ffn_layer == "identity":
        return nn.Identity()
    raise ValueError(f"ffn_layer is {ffn_layer!r}; expected one of {', '.join(FFN_LAYERS)}")


def normed_ffn(ffn: nn.Module, x: Tensor, norm: nn.LayerNorm, gamma: Tensor | None) -> Tensor:
    """Return `gamma * ffn(norm(x))` in the fast form.

    Args:
        ffn: what `build_ffn` returns.
        x: (T, D).
        norm: over D.
        gamma: the factors (D,) of a LayerScale; None for 1.

    Returns:
        (T, D).
    """
    if isinstance(ffn, Mlp):
        return scaled_linear([norm_linear(x, norm, ffn.fc1)], ffn.fc2, gamma, gelu=True)
    if isinstance(ffn, SwiGLU):
        gate, value = norm_linear(x, norm, ffn.w12).chunk(2, dim=-1)
        return scaled_linear([functional.silu(gate) * value], ffn.w3, gamma)
    y: Tensor = ffn(norm(x))
    return y if gamma is None else y * gamma
