"""Stand-ins for the parts of xformers that official training code uses, on any device.

`SwiGLU` and `cross_entropy` are left out on purpose: official code has its own fall-back for each
(`dinov2/layers/swiglu_ffn.py:36-51`, `dinov2/loss/ibot_patch_loss.py:17-31`), and these run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from itertools import accumulate, groupby, pairwise
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

__all__ = [
    "BlockDiagonalMask",
    "index_select_cat",
    "memory_efficient_attention",
    "scaled_index_add",
    "unbind",
    "xformers_modules",
]


@dataclass
class BlockDiagonalMask:
    """Sequences laid end to end along one dimension, none of which sees another.

    Attributes:
        seqlens: length of each sequence.
        _batch_sizes: how many consecutive sequences each tensor of `split` gets; one each where None. Official
            code sets it (`dinov2/layers/block.py:232`).
    """

    seqlens: tuple[int, ...]
    _batch_sizes: Sequence[int] | None = None

    @classmethod
    def from_seqlens(
        cls,
        q_seqlen: Sequence[int],
        kv_seqlen: Sequence[int] | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> BlockDiagonalMask:
        """Return the mask of sequences of these lengths; `device` is accepted, there is nothing to put there.

        Raises:
            NotImplementedError: keys have other lengths than queries, which official code never asks for.
        """
        if kv_seqlen is not None and list(kv_seqlen) != list(q_seqlen):
            raise NotImplementedError(
                f"kv_seqlen {list(kv_seqlen)} differs from q_seqlen {list(q_seqlen)}; the substitute for "
                "xformers supports self-attention only, which is what official dinov2 uses"
            )
        return cls(tuple(q_seqlen))

    @classmethod
    def from_tensor_list(cls, tensors: Sequence[Tensor]) -> tuple[BlockDiagonalMask, Tensor]:
        """Lay tensors (B_i, M_i, …) end to end.

        Returns:
            The mask and the tensor (1, sum of B_i · M_i, …).
        """
        mask = cls.from_seqlens([x.shape[1] for x in tensors for _ in range(x.shape[0])])
        mask._batch_sizes = [x.shape[0] for x in tensors]
        return mask, torch.cat([x.reshape(1, -1, *x.shape[2:]) for x in tensors], dim=1)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Undo `from_tensor_list` for a tensor (1, sum of lengths, …).

        A group of no sequences comes back as (0, 1, …): real xformers cannot reshape it, and so official training
        cannot run without local crops (Q19). Here it runs, so that what official writes for that case is compared.

        Raises:
            ValueError: the tensor has another shape.
        """
        starts = [0, *accumulate(self.seqlens)]
        if tensor.shape[0] != 1 or tensor.shape[1] != starts[-1]:
            raise ValueError(f"tensor of shape {tuple(tensor.shape)}, expected (1, {starts[-1]}, …)")
        sizes = [1] * len(self.seqlens) if self._batch_sizes is None else list(self._batch_sizes)
        ends = [0, *accumulate(sizes)]
        chunks = [starts[last] - starts[first] for first, last in pairwise(ends)]
        parts = tensor.split_with_sizes(chunks, dim=1)
        return [
            x.reshape(size, -1, *x.shape[2:]) if size else x.new_empty(0, 1, *x.shape[2:])
            for size, x in zip(sizes, parts, strict=True)
        ]

    def materialize(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the additive mask: 0 inside a sequence, -inf across; `shape` ends in (total, total)."""
        which = torch.repeat_interleave(torch.tensor(self.seqlens, device=device))
        across = which[:, None] != which[None, :]
        mask = torch.zeros(across.shape, dtype=dtype, device=device).masked_fill_(across, -math.inf)
        return mask.expand(*shape)


def memory_efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: BlockDiagonalMask | None = None,
    p: float = 0.0,
    scale: float | None = None,
    *,
    op: object = None,
) -> Tensor:
    """Return softmax(Q Kᵀ · scale) V.

    Sequences of equal length that follow each other go through attention as one batch: slicing each sequence
    out would give the same numbers with a backward pass ten times slower.

    Args:
        query: (B, N, H, d), as `key` and `value`; with a mask, B is 1 and N the sum of the lengths.
        key: as `query`.
        value: as `query`.
        attn_bias: which tokens belong together.
        p: dropout probability.
        scale: d ** -0.5 by default.
        op: the kernel wanted; ignored.

    Returns:
        Tensor of the shape of `query`.

    Raises:
        ValueError: the query has not four dimensions.
        TypeError: `attn_bias` is of another kind.
    """
    if query.ndim != 4:
        raise ValueError(f"query of shape {tuple(query.shape)}, expected (B, N, H, d)")
    if attn_bias is None:
        return _attention(query, key, value, p, scale)
    if not isinstance(attn_bias, BlockDiagonalMask):
        raise TypeError(f"attn_bias is a {type(attn_bias).__name__}, expected BlockDiagonalMask or None")
    groups = [(length, len(list(same))) for length, same in groupby(attn_bias.seqlens)]
    sizes = [length * count for length, count in groups]
    outputs = []
    for (length, count), *parts in zip(
        groups, *(x.split_with_sizes(sizes, dim=1) for x in (query, key, value)), strict=True
    ):
        q, k, v = (x.reshape(count, length, *x.shape[2:]) for x in parts)
        outputs.append(_attention(q, k, v, p, scale).reshape(1, count * length, *query.shape[2:]))
    return torch.cat(outputs, dim=1)


def _attention(query: Tensor, key: Tensor, value: Tensor, p: float, scale: float | None) -> Tensor:
    """Return attention of (B, N, H, d); torch wants heads before tokens."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(q, k, v, dropout_p=p, scale=scale).transpose(1, 2)


def unbind(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Return the slices of `x` along `dim`."""
    return torch.unbind(x, dim)


def index_select_cat(sources: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """Select rows of each source (S_i, D_i) by its indices (I_i,) and return them as one (sum of I_i · D_i,)."""
    rows = zip(sources, indices, strict=True)
    return torch.cat([torch.index_select(source, 0, index).flatten() for source, index in rows])


def scaled_index_add(
    input: Tensor,
    index: Tensor,
    source: Tensor,
    scaling: Tensor | None = None,
    alpha: float = 1.0,
) -> Tensor:
    """Return `input` (B, M, D) with alpha · scaling (D,) · source (I, M, D) added to its rows `index` (I,).

    xformers overwrites `input`. Official code never reads it again: the result takes its place in the list of
    crops (`dinov2/layers/block.py:262-264`), and what was selected from it before is a copy. So a new tensor
    gives the same values and gradients, and is safe where `input` is a leaf.
    """
    if index.numel() == 0:
        return input  # a group of no sequences, see `BlockDiagonalMask.split`
    scaled = source if scaling is None else source * scaling
    return torch.index_add(input, 0, index, scaled, alpha=alpha)


def xformers_modules() -> dict[str, ModuleType]:
    """Return fresh modules to be put into `sys.modules`, by name."""
    fmha = _module("xformers.ops.fmha")
    fmha.__dict__.update(
        BlockDiagonalMask=BlockDiagonalMask,
        MemoryEfficientAttentionFlashAttentionOp="any kernel",
        memory_efficient_attention=memory_efficient_attention,
    )
    ops = _module("xformers.ops")
    ops.__dict__.update(
        fmha=fmha,
        index_select_cat=index_select_cat,
        memory_efficient_attention=memory_efficient_attention,
        scaled_index_add=scaled_index_add,
        unbind=unbind,
    )
    top = _module("xformers")
    top.__dict__.update(ops=ops)
    return {module.__name__: module for module in (top, ops, fmha)}


def _module(name: str) -> ModuleType:
    """Return an empty module; the spec lets `importlib.util.find_spec` answer for it."""
    module = ModuleType(name, "Stands in for xformers while parity runs official code.")
    module.__spec__ = ModuleSpec(name, None)
    return module
