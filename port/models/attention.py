"""Self-attention over a batch, or over sequences of several lengths packed into one row.

Shapes: B batch, N tokens, D embedding dimension, H heads, d = D / H, T tokens of a packed row.

A packed row (1, T, D) holds whole sequences one after another. Linear layers run on the row at once;
attention runs once per group of consecutive sequences of equal length, so no mask is built and no
sequence sees another. This replaces xformers' block-diagonal kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from port.models.fused import norm_linear, split_heads

__all__ = ["Attention", "group_equal_lengths"]


def group_equal_lengths(shapes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge neighbours of equal length: [(2, 5), (3, 5), (4, 2)] gives [(5, 5), (4, 2)].

    Args:
        shapes: (number of sequences, tokens of each), in the order of the packed row.
    """
    groups: list[tuple[int, int]] = []
    for b, n in shapes:
        if groups and groups[-1][1] == n:
            groups[-1] = (groups[-1][0] + b, n)
        else:
            groups.append((b, n))
    return groups


class Attention(nn.Module):
    """Multi-head self-attention with one linear for queries, keys and values.

    Mirrors `dinov2/layers/attention.py:36` and the packed form at `:82`.

    Args:
        dim: D.
        num_heads: H.
        qkv_bias: whether the linear for queries, keys and values has a bias.
        proj_bias: whether the output linear has a bias.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = False, proj_bias: bool = True) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads is {num_heads}; it must divide the embedding dimension {dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(self, x: Tensor, groups: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Let every token attend to the tokens of its own sequence.

        Args:
            x: (B, N, D), or with `groups` a packed row (1, T, D).
            groups: (number of sequences, tokens of each) along the packed row.

        Returns:
            The same shape as x.

        Raises:
            ValueError: `groups` does not account for every token of a packed row.
        """
        B, N, D = x.shape
        if groups is None:
            groups = [(B, N)]
        elif B != 1 or sum(b * n for b, n in groups) != N:
            raise ValueError(f"groups {list(groups)} do not add up to x of shape {tuple(x.shape)}: pack x first")

        qkv = self.qkv(x).reshape(-1, 3, self.num_heads, D // self.num_heads)  # (T, 3, H, d)
        parts = qkv.split([b * n for b, n in groups])
        outputs = [self._attend(part, b, n) for part, (b, n) in zip(parts, groups, strict=True)]
        x = torch.cat(outputs) if len(outputs) > 1 else outputs[0]  # (T, D)
        projected: Tensor = self.proj(x.view(B, N, D))
        return projected

    def _attend(self, qkv: Tensor, b: int, n: int) -> Tensor:
        """Attend within b sequences of n tokens: qkv (b*n, 3, H, d) to (b*n, D)."""
        q, k, v = qkv.view(b, n, *qkv.shape[1:]).unbind(2)  # 3 x (b, n, H, d)
        x = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return x.transpose(1, 2).reshape(b * n, -1)

    def attend(self, x: Tensor, norm: nn.LayerNorm, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Norm x and let its tokens attend, in the fast form and without the output linear.

        Args:
            x: (T, D), whole sequences one after another.
            norm: comes before the linear for queries, keys and values.
            shapes: (number of sequences b, tokens n of each) along x.

        Returns:
            For each shape (b * n, D).
        """
        qkv = norm_linear(x, norm, self.qkv)  # (T, 3 D)
        return [
            functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b * n, -1)
            for (q, k, v), (b, n) in zip(split_heads(qkv, shapes, self.num_heads), shapes, strict=True)
        ]
