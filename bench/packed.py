"""Variable-length attention: one kernel for all sequences of a packed row, where the device has it.

Shapes: T tokens of a packed row, D embedding dimension, H heads, d = D / H, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import accumulate

import torch
from torch import Tensor, nn

from bench.settings import Settings
from port.models.attention import Attention

__all__ = ["VarlenAttention", "use_varlen", "varlen_missing"]

Kernel = Callable[..., Tensor]


def varlen_missing(settings: Settings) -> str:
    """Return why `torch.nn.attention.varlen` cannot serve a run; empty where it can."""
    if settings.device != "cuda":
        return f"variable-length attention needs CUDA; this run is on a {settings.device.upper()}"
    if settings.precision != "bf16":
        return f"variable-length attention needs bf16; this run is in {settings.precision}"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"variable-length attention needs compute capability 8.0; {torch.cuda.get_device_name()} has less"
    try:
        import_module("torch.nn.attention.varlen")
    except ImportError as error:
        return f"this torch has no variable-length attention: {error}"
    return ""


class VarlenAttention(Attention):
    """`port`'s attention, whose packed form makes no group of equal lengths.

    Attributes:
        kernel: called with queries, keys and values (T, H, d), the bounds of sequences int32 (S + 1,) twice, and the
            longest length twice; returns (T, H, d).
    """

    kernel: Kernel

    def forward(self, x: Tensor, groups: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Let every token attend to the tokens of its own sequence; see `port.models.attention.Attention`."""
        if groups is None:
            return super().forward(x)
        D = x.shape[-1]
        q, k, v = self.qkv(x).reshape(-1, 3, self.num_heads, D // self.num_heads).unbind(1)  # 3 x (T, H, d)
        bounds, longest = self._bounds(tuple(groups), x.device)
        out = self.kernel(q, k, v, bounds, bounds, longest, longest)
        projected: Tensor = self.proj(out.reshape(x.shape))
        return projected

    def _bounds(self, groups: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, int]:
        """Return where sequences begin and end, kept on the device: a transfer per block would wait for it."""
        known: dict[tuple[tuple[int, int], ...], Tensor] = self.__dict__.setdefault("_known_bounds", {})
        if groups not in known:
            ends = accumulate(n for b, n in groups for _ in range(b))
            known[groups] = torch.tensor([0, *ends], dtype=torch.int32, device=device)
        return known[groups], max(n for _, n in groups)


def use_varlen(backbone: nn.Module, kernel: Kernel | None = None) -> None:
    """Let every attention of a backbone use a kernel for variable lengths; None for torch's own."""
    chosen = import_module("torch.nn.attention.varlen").varlen_attn if kernel is None else kernel
    for module in backbone.modules():
        if isinstance(module, Attention):
            module.__class__ = VarlenAttention
            module.__dict__["kernel"] = chosen
