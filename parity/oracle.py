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

_NARROW = frozenset({torch.float32, torch.float16, torch.bfloat16})
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
            if func in _CASTING_METHODS:
                return func(*self._widen(args), **self._widen_options(options))
            options = self._widen_options(options)
        return func(*args, **options)

    def _widen(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Replace a narrow dtype among the arguments of `to` or `type`; a narrow tensor gives its dtype."""
        widened: list[Any] = [args[0]]
        for argument in args[1:]:
            if isinstance(argument, torch.dtype) and argument in _NARROW:
                self.down_casts += 1
                widened.append(torch.float64)
            elif isinstance(argument, Tensor) and argument.dtype in _NARROW:
                self.down_casts += 1
                widened.append(argument.to(torch.float64))
            else:
                widened.append(argument)
        return tuple(widened)

    def _widen_options(self, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("dtype") in _NARROW:
            self.down_casts += 1
            options["dtype"] = torch.float64
        return options
