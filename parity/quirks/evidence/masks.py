"""What official's masks and its collate function do."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from parity.adapters.common import recorded_counts
from parity.adapters.official_step import options_of_official_loader
from parity.quirks.evidence.tools import Observation, raised, small_batch, small_config, small_model
from parity.reference import Reference

__all__ = ["cap", "counted_rows", "deficit", "full_width", "no_local_crops", "padded_rows"]

_GRID = 14
_HALF = _GRID * _GRID // 2


def cap(reference: Reference) -> Observation:
    """Read the cap that official training gives to its mask generator, at three sizes of crops."""
    found: dict[tuple[int, int], float] = {}
    for size, patch in ((224, 14), (98, 14), (518, 14)):
        config = small_config(crops__global_crops_size=size, student__patch_size=patch)
        generator = options_of_official_loader(reference, config)["collate_fn"].keywords["mask_generator"]
        found[size, patch] = float(generator.max_num_patches)
    half = {(size, patch): (size // patch) ** 2 / 2 for size, patch in found}
    confirmed = list(found.values()) == [half[224, 14], 21, 666]
    seen = ", ".join(f"{size}/{patch}: {found[size, patch]:g} of {half[size, patch]:g}" for size, patch in found)
    return Observation(confirmed, seen)


def _generator(reference: Reference) -> Any:
    return reference.module("data.masking").MaskingGenerator(input_size=(_GRID, _GRID), max_num_patches=_HALF)


def deficit(reference: Reference) -> Observation:
    """Draw masks of every ratio between 0.1 and 0.5, and masks of one patch."""
    generator = _generator(reference)
    wanted = [int(_GRID * _GRID * random.uniform(0.1, 0.5)) for _ in range(600)]
    missing = np.array([n - int(generator(n).sum()) for n in wanted])
    empty = np.mean([not generator(1).any() for _ in range(300)])
    exact = float(np.mean(missing == 0))
    confirmed = 0.85 < exact < 1 and missing.min() >= 0 and 0.1 < empty < 0.5
    seen = (
        f"{exact:.0%} of 600 masks exact, {missing.mean():.2f} patches missing on average, {missing.max()} at most; "
        f"a request of 1 gives none in {empty:.0%}"
    )
    return Observation(bool(confirmed), seen)


def full_width(reference: Reference) -> Observation:
    """Draw single blocks of up to half the grid, and measure their sides."""
    generator = _generator(reference)
    sides = []
    for _ in range(400):
        mask = np.zeros((_GRID, _GRID), dtype=bool)
        generator._mask(mask, _HALF)
        sides += [int(mask.any(axis).sum()) for axis in (0, 1)]
    longest = max(sides)
    return Observation(longest == _GRID - 1, f"the longest side of 400 blocks is {longest} of {_GRID} patches")


def padded_rows(reference: Reference) -> Observation:
    """Collate batches of 64 and of 12 images with official's ratios, and count the rows beyond the masked patches."""
    collate = reference.module("data.collate").collate_data_and_cast
    crop = torch.zeros(3, 1, 1)
    shares = {}
    for n_images in (64, 12):
        samples = [({"global_crops": [crop, crop], "local_crops": [crop]}, ())] * n_images
        batch = collate(
            samples, (0.1, 0.5), 0.5, torch.float32, n_tokens=_GRID * _GRID, mask_generator=_generator(reference)
        )
        shares[n_images] = 1 - int(batch["n_masked_patches"]) / batch["upperbound"]
    seen = ", ".join(f"{share:.1%} with {n} images" for n, share in shares.items())
    return Observation(0 < shares[64] < shares[12], f"rows of zeros in the buffer: {seen}")


def counted_rows(reference: Reference) -> Observation:
    """Collate 6 crops of 3 images, and record the bounds that the ratio is drawn between."""
    module = reference.module("data.collate")
    bounds: list[object] = []

    def uniform(low: Any, high: Any) -> Any:
        bounds.extend((low, high))
        return random.uniform(low, high)

    with mock.patch.object(module, "random", SimpleNamespace(uniform=uniform, shuffle=random.shuffle)):
        counts = recorded_counts(module.collate_data_and_cast, 6, 100, (0.1, 0.5), 0.5)
    masked = sum(count > 0 for count in counts)
    tensors = sum(isinstance(bound, torch.Tensor) and bound.dtype == torch.float32 for bound in bounds)
    seen = f"{masked} of {len(counts)} rows of both crops masked; {tensors} of {len(bounds)} bounds are float32 tensors"
    return Observation(masked == 3 and len(counts) == 6 and tensors == len(bounds) == 6, seen)


def no_local_crops(reference: Reference) -> Observation:
    """Collate without local crops, and take a step with two and one with an empty tensor of them."""
    collate = raised(lambda: small_batch(reference, small_config(crops__local_crops_number=0)), RuntimeError)
    shares = {n: _share_of_global_term(reference, n) for n in (2, 0)}
    confirmed = collate is not None and abs(shares[2] - 6) < 1e-3 and abs(shares[0] - 3) < 1e-3
    message = "works" if collate is None else f"raises {type(collate).__name__}"
    return Observation(
        confirmed, f"collate {message}; terms are divided by {shares[2]:.3g} for n = 2, by {shares[0]:.3g} for n = 0"
    )


def _share_of_global_term(reference: Reference, n_local: int) -> float:
    """Return what the global term was divided by: twice the loss between the views over the displayed term."""
    config = small_config(crops__local_crops_number=max(n_local, 1), dino__koleo_loss_weight=0.0, ibot__loss_weight=0.0)
    model = small_model(reference, config)
    batch = small_batch(reference, config)
    if n_local == 0:
        config.crops.local_crops_number = 0
        batch["collated_local_crops"] = batch["collated_local_crops"][:0]
    values: list[float] = []
    model.dino_loss.register_forward_hook(lambda _, __, output: values.append(float(output.detach())))
    displayed = model.forward_backward(batch, teacher_temp=0.07)["dino_global_crops_loss"]
    return 2 * values[-1] / float(displayed.detach())
