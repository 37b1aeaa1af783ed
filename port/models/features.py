"""What the backbone returns.

Shapes: B batch, N patches, R register tokens, D embedding dimension.
"""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

__all__ = ["Features", "split_tokens"]


class Features(TypedDict):
    """The tokens of one batch. Mirrors `dinov2/models/vision_transformer.py:266`.

    Attributes:
        x_norm_clstoken: (B, D), after the final norm.
        x_norm_regtokens: (B, R, D), after the final norm.
        x_norm_patchtokens: (B, N, D), after the final norm.
        x_prenorm: (B, 1 + R + N, D), before it.
        masks: the masks that were given, bool (B, N).
    """

    x_norm_clstoken: Tensor
    x_norm_regtokens: Tensor
    x_norm_patchtokens: Tensor
    x_prenorm: Tensor
    masks: Tensor | None


def split_tokens(x_prenorm: Tensor, x_norm: Tensor, num_registers: int, masks: Tensor | None) -> Features:
    """Name the parts of sequences [CLS, R registers, N patches] (B, 1 + R + N, D)."""
    return {
        "x_norm_clstoken": x_norm[:, 0],
        "x_norm_regtokens": x_norm[:, 1 : num_registers + 1],
        "x_norm_patchtokens": x_norm[:, num_registers + 1 :],
        "x_prenorm": x_prenorm,
        "masks": masks,
    }
