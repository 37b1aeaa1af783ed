"""The option `kernels`: the operations of the blocks, the losses, the moving average and the optimizer.

Both forms are the same functions. `official_order` carries out official's operations in official's order, so that on a
CPU in float32 its bits are official's; `fast` takes fewer passes over memory and keeps less, and differs by rounding.
"""

from __future__ import annotations

import torch

from port.config_keys import nearest

__all__ = ["KERNELS", "is_fast", "refuse_second_derivative"]

KERNELS = ("official_order", "fast")
"""What the option may be."""


def is_fast(kernels: str) -> bool:
    """Return whether the fast forms are meant.

    Raises:
        ValueError: `kernels` is not one of `KERNELS`.
    """
    if kernels not in KERNELS:
        raise ValueError(f"kernels is {kernels!r}, expected one of {', '.join(KERNELS)}{nearest(kernels, KERNELS)}")
    return kernels == "fast"


def refuse_second_derivative() -> None:
    """Raise a RuntimeError in a backward pass written by hand whose gradients are to be differentiated.

    They would be taken for constants. The compiler traces backward passes with gradients enabled, and has no second
    derivatives to refuse.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError("kernels=fast has no second derivative; kernels=official_order has")
