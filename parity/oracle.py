"""The double-precision oracle: everything under it stays in float64, explicit down-casts included.

`.double()` alone is no oracle: official Sinkhorn (`dinov2/loss/dino_clstoken_loss.py:37`) and position
interpolation (`dinov2/models/vision_transformer.py:186`) call `.float()`. The mode below answers a request to
narrow a float64 tensor with the tensor itself, and counts how often it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Float64Oracle"]

_NARROW: frozenset[object] = frozenset({torch.float32, torch.float16, torch.bfloat16})
_SPELLED: frozenset[object] = frozenset({"torch.FloatTensor", "torch.HalfTensor", "torch.BFloat16Tensor"})
_NARROWING_METHODS = frozenset({torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16})
_CASTING_METHODS = frozenset({torch.Tensor.to, torch.Tensor.type, torch.Tensor.type_as})


class Float64Oracle(TorchFunctionMode):
    """Keeps float64 tensors float64 while it is active.

    Attributes:
        down_casts: how many requests to narrow a float64 tensor were neutralised.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down_casts = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype is torch.float64:
            if func in _NARROWING_METHODS:
                self.down_casts += 1
                return args[0]
            casts = func in _CASTING_METHODS
            args = tuple(self._widened(argument, tensors=casts) for argument in args)
            options = {name: self._widened(value, tensors=casts) for name, value in options.items()}
        return func(*args, **options)

    def _widened(self, argument: Any, *, tensors: bool) -> Any:
        """Return float64 for a narrow dtype, however it is spelled; a tensor that is cast to gives its dtype."""
        if isinstance(argument, str | torch.dtype) and argument in _NARROW | _SPELLED:
            self.down_casts += 1
            return torch.float64
        if tensors and isinstance(argument, Tensor) and argument.dtype in _NARROW:
            self.down_casts += 1
            return argument.to(torch.float64)
        return argument
