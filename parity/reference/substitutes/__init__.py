"""What stands in, on a device without the real kernels, for what official code imports or calls."""

from __future__ import annotations

from parity.reference.substitutes.runtime import attach_fsdp_methods
from parity.reference.substitutes.table import SUBSTITUTES, Substitute

__all__ = ["SUBSTITUTES", "Substitute", "attach_fsdp_methods"]
