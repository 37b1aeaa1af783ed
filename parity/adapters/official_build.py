"""What building official models needs from outside: other sizes, and numbers on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from port.models import Architecture

__all__ = ["RealNumbers", "architecture"]


class RealNumbers(TorchFunctionMode):
    """Lets `torch.linspace` give numbers while modules are built on the meta device.

    April 2023's `dinov2/models/vision_transformer.py` reads its drop path rates with `.item()`.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace:
            options.setdefault("device", "cpu")
        return func(*args, **options)


def architecture(transformer: ModuleType, layers: ModuleType, sizes: Architecture) -> Callable[..., nn.Module]:
    """A constructor of the given sizes beside official's own (`dinov2/models/vision_transformer.py:341`)."""
    build: Callable[..., nn.Module] = partial(
        transformer.DinoVisionTransformer,
        embed_dim=sizes.embed_dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        mlp_ratio=sizes.mlp_ratio,
        block_fn=partial(layers.NestedTensorBlock, attn_class=layers.MemEffAttention),
    )
    return build
