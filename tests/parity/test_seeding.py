from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from parity.seeding import seeded


def _draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random_sample()), float(torch.rand(()))


def test_all_three_generators_are_seeded() -> None:
    """Python's, NumPy's and torch's streams start again, each of them."""
    seeded(5)
    first = _draws()
    seeded(5)
    assert _draws() == first
    seeded(6)
    assert all(a != b for a, b in zip(_draws(), first, strict=True))


def test_the_streams_are_those_of_the_plain_seeds() -> None:
    """A stack that seeds itself with the same number draws the same."""
    seeded(7)
    ours = _draws()
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    assert _draws() == ours


@pytest.mark.parametrize("seed", [0, 2**32, 2**40 + 3])
def test_seeds_beyond_numpy_s_range_are_accepted(seed: int) -> None:
    """NumPy's legacy generator takes 32 bits: the seed is reduced, and draws repeat."""
    seeded(seed)
    first = _draws()
    seeded(seed)
    assert _draws() == first
