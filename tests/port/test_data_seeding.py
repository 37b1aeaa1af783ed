from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from port.data.seeding import derive_seed, seeded

# First 16 digits of `printf JSON | sha256sum`, halved; the JSON is `[0,"sample",5]`, `[]` and `["\\u00e9"]`.
KNOWN = {
    (0, "sample", 5): 0xCC394A71E35ED461 >> 1,
    (): 0x4F53CDA18C2BAA0C >> 1,
    ("é",): 0xD8F81E7A2FA14557 >> 1,
}


def states() -> tuple[bytes, object, str]:
    """Return what the three generators' states are."""
    numpy_state = np.random.get_state()
    return torch.default_generator.get_state().numpy().tobytes(), random.getstate(), repr(numpy_state)


def draws() -> tuple[float, float, float]:
    """Draw one number from each generator."""
    return float(torch.rand(())), random.random(), float(np.random.rand())


@pytest.mark.parametrize("parts", KNOWN, ids=str)
def test_a_seed_is_the_hash_of_its_parts_as_json(parts: tuple[int | str, ...]) -> None:
    """Seeds are the first 63 bits of the SHA-256 of the parts written as compact JSON: stable for ever."""
    assert derive_seed(*parts) == KNOWN[parts]


def test_another_process_derives_the_same_seed() -> None:
    """Python's own hash differs between processes; the derived seed does not."""
    code = "from port.data.seeding import derive_seed; print(derive_seed(7, 'masks', 12, 3))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == derive_seed(7, "masks", 12, 3)


def test_parts_do_not_run_together() -> None:
    """Seeds differ where parts differ in type, order, or where one ends."""
    seeds = [derive_seed(*p) for p in ((1, 23), (12, 3), (123,), ("1", 23), (23, 1), ("1,23",), (1, 23, 0), (-1, 23))]
    assert len(set(seeds)) == len(seeds)


def test_neighbouring_positions_have_unrelated_seeds() -> None:
    """Over 2000 positions each of 63 bits is set about half of the time (five standard deviations)."""
    seeds = [derive_seed(0, "sample", position) for position in range(2000)]
    shares = [sum(seed >> bit & 1 for seed in seeds) / 2000 for bit in range(63)]
    assert min(shares) > 0.5 - 5 * 0.5 / 2000**0.5
    assert max(shares) < 0.5 + 5 * 0.5 / 2000**0.5
    assert max(seeds) < 2**63


def test_seeded_sets_all_three_generators() -> None:
    """The draws inside are those of freshly seeded generators."""
    seed = 2**40 + 5
    with seeded(seed):
        drawn = draws()
    assert drawn == (
        float(torch.rand((), generator=torch.Generator().manual_seed(seed))),
        random.Random(seed).random(),
        float(np.random.RandomState(5).rand()),
    )


def test_seeded_leaves_no_trace() -> None:
    """The generators' states are what they were, also after an exception and when nested."""

    def draw_and_fail() -> None:
        with seeded(1), seeded(2):
            draws()
            raise KeyError

    before = states()
    with pytest.raises(KeyError):
        draw_and_fail()
    assert states() == before


def test_nested_seeds_do_not_disturb_the_outer_one() -> None:
    """What is drawn after an inner seed is what would have been drawn without it."""
    with seeded(1):
        plain = [draws(), draws()]
    with seeded(1):
        first = draws()
        with seeded(2):
            draws()
        assert [first, draws()] == plain
