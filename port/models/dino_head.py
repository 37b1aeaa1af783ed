"""The projection head of DINO and iBOT.

Shapes: M rows (CLS or masked patch tokens), D embedding dimension, K prototypes.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional

__all__ = ["DINOHead", "LogitFactors", "WeightNormLinear"]

OTHER_SPELLINGS = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
"""torch.nn.utils.parametrizations.weight_norm's names, to official's."""


class WeightNormLinear(nn.Module):
    """A linear without bias whose rows are directions `weight_v` with lengths `weight_g`.

    Official wraps nn.Linear in torch.nn.utils.weight_norm, which is deprecated and breaks deepcopy; this
    holds the same two parameters in the same order, computes with the same kernel, and also loads the
    names of torch.nn.utils.parametrizations.weight_norm. Mirrors `dinov2/layers/dino_head.py:27`.

    Args:
        in_features: columns of `weight_v` (out_features, in_features).
        out_features: rows of both, and of `weight_g` (out_features, 1).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight_g = nn.Parameter(torch.empty(out_features, 1))
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()
        hook = _rename_parametrizations
        self.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def reset_parameters(self) -> None:
        """Set lengths to 1 and draw directions as nn.Linear draws its weight (quirk Q10)."""
        nn.init.ones_(self.weight_g)
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """The effective weight (out_features, in_features)."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        return functional.linear(x, self.weight)

    def extra_repr(self) -> str:
        """Show the sizes in `print(model)`."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _rename_parametrizations(module: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: object) -> None:
    for other, official in OTHER_SPELLINGS.items():
        if prefix + other in state_dict:
            state_dict[prefix + official] = state_dict.pop(prefix + other)


class LogitFactors(NamedTuple):
    """Logits as a product, `features @ (weight_g * weight_v / |weight_v|).T`.

    Attributes:
        features: (..., bottleneck_dim), of length 1.
        weight_v: directions (K, bottleneck_dim).
        weight_g: lengths (K, 1).
    """

    features: Tensor
    weight_v: Tensor
    weight_g: Tensor

    def logits(self) -> Tensor:
        """Return the product (..., K)."""
        return functional.linear(self.features, torch._weight_norm(self.weight_v, self.weight_g, 0))


class DINOHead(nn.Module):
    """An MLP to a bottleneck, L2 normalisation, and cosines with K prototypes times their lengths.

    Mirrors `dinov2/layers/dino_head.py:12`.

    Args:
        in_dim: D.
        out_dim: K.
        use_bn: whether batch norm follows each hidden linear.
        nlayers: linears of the MLP; less than 1 counts as 1.
        hidden_dim: features of the hidden linears.
        bottleneck_dim: features that are normalised.
        mlp_bias: whether the MLP's linears have a bias.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        use_bn: bool = False,
        nlayers: int = 3,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        mlp_bias: bool = True,
    ) -> None:
        super().__init__()
        self.mlp = _build_mlp(max(nlayers, 1), in_dim, bottleneck_dim, hidden_dim, use_bn, mlp_bias)
        # Before last_layer exists, which therefore keeps nn.Linear's initialisation (quirk Q10).
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if mlp_bias:
                    nn.init.zeros_(module.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim)

    def forward(self, x: Tensor, *, factors: bool = False) -> Tensor | LogitFactors:
        """Map tokens to logits.

        Args:
            x: (..., D).
            factors: whether to leave the last product, the largest of all, to the caller.

        Returns:
            Logits (..., K), or what their product is made of.
        """
        x = self.mlp(x)  # (..., bottleneck_dim)
        # 1e-12 is 0 in half precision.
        eps = 1e-6 if x.dtype == torch.float16 else 1e-12
        x = functional.normalize(x, dim=-1, p=2, eps=eps)
        if factors:
            return LogitFactors(x, *self._last_layer_to_keep())
        logits: Tensor = self.last_layer(x)
        return logits

    def _last_layer_to_keep(self) -> tuple[Tensor, Tensor]:
        """Return directions and lengths: copies where a sharding wrapper frees gathered ones after this call."""
        v, g = self.last_layer.weight_v, self.last_layer.weight_g
        return (v.clone(), g.clone()) if isinstance(self, FSDPModule) else (v, g)


def _build_mlp(nlayers: int, in_dim: int, bottleneck_dim: int, hidden_dim: int, use_bn: bool, bias: bool) -> nn.Module:
    """Return nlayers linears, each but the last followed by (batch norm and) GELU."""
    if nlayers == 1:
        return nn.Linear(in_dim, bottleneck_dim, bias=bias)
    widths = [in_dim] + [hidden_dim] * (nlayers - 1)
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        layers.append(nn.Linear(width, next_width, bias=bias))
        if use_bn:
            layers.append(nn.BatchNorm1d(next_width))
        layers.append(nn.GELU())
    layers.append(nn.Linear(hidden_dim, bottleneck_dim, bias=bias))
    return nn.Sequential(*layers)
