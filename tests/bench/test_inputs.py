from __future__ import annotations

from types import ModuleType

import torch

import port.models.block
from bench.inputs import Subsets, make_batches, make_state
from bench.settings import Settings

TINY = Settings(arch="vit_parity4", batch=2, prototypes=8, local_crops=2, global_size=64, local_size=32)


def test_a_seed_gives_every_arm_the_same_weights_and_batches() -> None:
    """Two processes that ask get equal tensors, so nothing has to be sent between them."""
    first, second = make_state(TINY), make_state(TINY)
    assert all(torch.equal(first[name], second[name]) for name in first)
    (one,), (other,) = make_batches(TINY, 1), make_batches(TINY, 1)
    assert torch.equal(one["collated_global_crops"], other["collated_global_crops"])
    assert torch.equal(one["collated_masks"], other["collated_masks"])


def test_a_batch_is_official_s() -> None:
    """Two global crops of 4 x 4 patches and two local ones per image; half of the four rows are masked."""
    (batch,) = make_batches(TINY, 1)
    assert batch["collated_global_crops"].shape == (4, 3, 64, 64)
    assert batch["collated_local_crops"].shape == (4, 3, 32, 32)
    assert batch["collated_masks"].shape == (4, 16)
    assert int(batch["n_masked_patches"]) == int(batch["collated_masks"].sum()) == len(batch["mask_indices_list"])


def test_inputs_differ_from_each_other() -> None:
    """They take turns so that caches do not help: they would if all were one."""
    first, second = make_batches(TINY, 2)
    assert not torch.equal(first["collated_global_crops"], second["collated_global_crops"])


def test_the_weights_are_not_degenerate() -> None:
    """LayerScale starts at 1e-5 and would hide every difference between blocks."""
    state = make_state(TINY)
    gammas = [value for name, value in state.items() if name.endswith("ls1.gamma")]
    assert gammas
    assert all(value.abs().mean() > 0.3 for value in gammas)


def test_packed_and_separate_forwards_get_the_same_subsets() -> None:
    """The packed order asks for 4 long and 6 short sequences in turn; the separate one for each kind by itself."""
    long, short = torch.zeros(4, 17, 2), torch.zeros(6, 5, 2)
    subsets = Subsets()
    subsets.begin(1)
    packed = [subsets(x, 0.3)[0] for _ in range(3) for x in (long, short)]
    subsets.begin(1)
    separate = [subsets(long, 0.3)[0] for _ in range(3)] + [subsets(short, 0.3)[0] for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(packed[::2] + packed[1::2], separate, strict=True))


def test_another_process_draws_the_same_subsets() -> None:
    """They depend on the input, the shape and the turn alone."""
    x = torch.zeros(8, 5, 2)
    drawn = []
    for _ in range(2):
        subsets = Subsets()
        subsets.begin(0)
        drawn.append([subsets(x, 0.5)[0].tolist() for _ in range(4)])
    assert drawn[0] == drawn[1]
    assert len({tuple(one) for one in drawn[0]}) > 1


def test_size_and_scale_are_official_s() -> None:
    """Of 8 samples at rate 0.3, int(8 * 0.7) = 5 stay and are scaled by 8 / 5; one always stays."""
    subsets = Subsets()
    subsets.begin(0)
    indices, scale = subsets(torch.zeros(8, 5, 2), 0.3)
    assert (indices.shape, indices.dtype, scale) == ((5,), torch.int64, 1.6)
    assert len(set(indices.tolist())) == 5
    indices, scale = subsets(torch.zeros(2, 5, 2), 0.9)
    assert (len(indices), scale) == (1, 2.0)


def test_a_module_gets_its_own_function_back() -> None:
    """The stand-in is gone when the arm closes."""
    before = port.models.block.get_branges_scales
    module: ModuleType = port.models.block
    subsets = Subsets()
    with subsets.installed(module):
        assert port.models.block.get_branges_scales is subsets
    assert port.models.block.get_branges_scales is before
