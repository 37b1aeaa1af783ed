"""The option `kernels`: the operations of the blocks, the losses, the moving average and the optimizer.

Both forms are the same functions. `official_order` carries out official's operations in official's order, so that on a
CPU in float32 its bits are official's; `fast` takes fewer passes over memory and keeps less, and differs by rounding.
"""

from __future__ import annotations

from port.config_keys import nearest

__all__ = ["KERNELS", "is_fast"]

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
