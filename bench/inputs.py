"""The same weights, crops, masks and drop-path subsets for every arm, drawn from seeds.

Shapes: B images, n local crops per image, N patches of a global crop, S samples of a drop-path subset.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor

from bench.settings import Settings
from parity.recipes import SMALL_ARCHITECTURES
from parity.seeding import seeded
from parity.states import generic_state
from port.data import Batch, MaskingGenerator, collate_data_and_cast
from port.data.batches import N_GLOBAL_CROPS, batch_to_device
from port.data.masking import max_num_patches
from port.ssl_meta_arch import SSLMetaArch

__all__ = ["N_INPUTS", "Subsets", "make_batches", "make_state"]

N_INPUTS = 3
"""Batches that take turns, so that no iteration finds its input in a cache."""
SEED = 0


def make_state(settings: Settings) -> dict[str, Tensor]:
    """Return weights and centres under official's names, away from initialisation, where no layer is near zero."""
    torch.manual_seed(SEED)
    initial = SSLMetaArch(settings.config(), architectures=SMALL_ARCHITECTURES).state_dict()
    return generic_state(initial, SEED)


def make_batches(settings: Settings, count: int = N_INPUTS) -> list[Batch]:
    """Return batches on the device, with masks drawn by `port`, which are official's bit for bit.

    Raises:
        RuntimeError, torch.OutOfMemoryError: the crops do not fit into memory.
    """
    cfg = settings.config()
    size, patch = cfg.crops.global_crops_size, cfg.student.patch_size
    side = size // patch
    generator = MaskingGenerator((side, side), max_num_patches=max_num_patches(size, patch))
    batches = []
    for index in range(count):
        seeded(SEED + 1 + index)
        global_crops = torch.randn(N_GLOBAL_CROPS * settings.batch, 3, size, size)
        local_size = cfg.crops.local_crops_size
        local_crops = torch.randn(settings.local_crops * settings.batch, 3, local_size, local_size)
        pixel = torch.zeros(3, 1, 1)
        stand_in = ({"global_crops": [pixel] * N_GLOBAL_CROPS, "local_crops": [pixel]}, ())
        batch = collate_data_and_cast(
            [stand_in] * settings.batch,
            cfg.ibot.mask_ratio_min_max,
            cfg.ibot.mask_sample_probability,
            torch.float32,
            n_tokens=side * side,
            mask_generator=generator,
        )
        batch["collated_global_crops"], batch["collated_local_crops"] = global_crops, local_crops
        batches.append(batch_to_device(batch, torch.device(settings.device)))
    return batches


class Subsets:
    """Stands in for `get_branges_scales`, of `port` and of official, and gives both the same subsets.

    A subset depends on the input's number, on the shape of the group of sequences and on how many subsets that shape
    has been given since the iteration began: so a packed forward, which asks for global and local crops in turn, and
    two forwards, which ask for one kind after the other, get the same. Each is drawn once and kept on the device.
    """

    def __init__(self) -> None:
        self._input = 0
        self._asked: dict[tuple[int, ...], int] = {}
        self._drawn: dict[tuple[int, ...], Tensor] = {}

    def begin(self, number: int) -> None:
        """Start an iteration on input `number`."""
        self._input = number
        self._asked.clear()

    def __call__(self, x: Tensor, sample_drop_ratio: float = 0.0) -> tuple[Tensor, float]:
        """Return a subset of x (B, N, D): indices int64 (S,), and the scale B / S; see `port.models.block`."""
        count, length = x.shape[:2]
        asked = self._asked.get((count, length), 0)
        self._asked[count, length] = asked + 1
        size = max(int(count * (1 - sample_drop_ratio)), 1)
        key = (self._input, count, length, asked, size)
        if key not in self._drawn:
            order = list(range(count))
            random.Random(str(key)).shuffle(order)
            self._drawn[key] = torch.tensor(order[:size], device=x.device)
        return self._drawn[key], count / size

    @contextmanager
    def installed(self, module: ModuleType) -> Iterator[None]:
        """Take the place of `get_branges_scales` in a module of blocks."""
        with mock.patch.object(module, "get_branges_scales", self):
            yield
