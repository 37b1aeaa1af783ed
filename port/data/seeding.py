"""Random numbers as a function of where a run is, so that a resumed run needs no generator's state."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derive_seed", "seeded"]

_NUMPY_SEEDS = 2**32


def derive_seed(*parts: int | str) -> int:
    """Return a seed that only `parts` decide: `derive_seed(cfg.train.seed, "sample", position)`.

    The same on every machine, in every process and for every Python version. Text and numbers differ: `1` is not
    `"1"`.

    Args:
        parts: what the draws depend on; by convention the run's seed, what is drawn, then where.

    Returns:
        0 to 2**63 - 1, which torch, numpy (modulo 2**32) and Python's `random` take.
    """
    digest = hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, Python's `random` and numpy inside; leave them as they were found.

    `torch.manual_seed` would reseed the CUDA generators too, hence torch's default generator alone.
    """
    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % _NUMPY_SEEDS)
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
