"""What backward passes written by hand have in common."""

from __future__ import annotations

import torch

__all__ = ["refuse_second_derivative"]


def refuse_second_derivative() -> None:
    """Raise a RuntimeError in a backward pass written by hand whose gradients are to be differentiated.

    They would be taken for constants. The compiler traces backward passes with gradients enabled, and has no second
    derivatives to refuse.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError("kernels=fast has no second derivative; kernels=official_order has")
