"""What the backbone returns.

Shapes: B batch, N patches, R register tokens, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

__all__ = ["Features", "check_call", "masks_of", "split_tokens"]


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


def masks_of(x_list: Sequence[Tensor], masks: Sequence[Tensor | None] | None) -> Sequence[Tensor | None]:
    """Return the masks of each batch of a list; None for none.

    Raises:
        ValueError: there are more or fewer masks than batches.
    """
    if masks is None:
        return [None] * len(x_list)
    if len(masks) != len(x_list):
        raise ValueError(f"{len(x_list)} batches but {len(masks)} masks: give one (or None) per batch")
    return masks


def check_call(
    x: Tensor | list[Tensor],
    masks: Tensor | list[Tensor | None] | None,
    rows: Tensor | list[Tensor] | None,
    *,
    is_training: bool,
) -> None:
    """Check that the arguments of `DinoVisionTransformer.forward`, which explains them, fit each other.

    Raises:
        ValueError: a list or `rows` without `is_training`, or `rows` that are not int64 (R,) for each batch.
        TypeError: masks are a list where x is a tensor, or the other way round.
    """
    if isinstance(x, list) and not is_training:
        raise ValueError("a list of batches returns features only: pass is_training=True")
    if isinstance(x, list) and isinstance(masks, Tensor):
        raise TypeError("a list of batches needs a list of masks, not one tensor")
    if not isinstance(x, list) and isinstance(masks, list):
        raise TypeError("one batch needs one tensor of masks, not a list")
    if rows is None:
        return
    if not is_training:
        raise ValueError("rows choose among the features: pass is_training=True")
    if isinstance(x, list) != isinstance(rows, list) or (isinstance(x, list) and len(x) != len(rows)):
        expected = f"a list of {len(x)} tensors" if isinstance(x, list) else "one tensor"
        given = f"a list of {len(rows)}" if isinstance(rows, list) else "one tensor"
        raise ValueError(f"rows are {given}; expected {expected}, as x has")
    for indices in rows if isinstance(rows, list) else [rows]:
        if indices.dtype != torch.int64 or indices.dim() != 1:
            raise ValueError(f"rows are {indices.dtype} of shape {tuple(indices.shape)}; expected int64 (R,)")
