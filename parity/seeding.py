"""Seeding of every global generator that a stack may draw from."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["seeded"]


def seeded(seed: int) -> None:
    """Seed Python's, NumPy's legacy global and torch's generators; forks draw masks from any of the three."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        # torch.manual_seed would write down the stack each time, for a device that there is not.
        torch.default_generator.manual_seed(seed)
