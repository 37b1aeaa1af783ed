"""Official's masks drawn from torch: the same algorithm from another generator, and ways to get it wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["TorchMasks"]


def uniform(low: float, high: float) -> float:
    """A number between two, from torch's generator."""
    return low + (high - low) * float(torch.rand(()))


class TorchMasks:
    """A stack of `make_mask`, `mask_counts` and `collate` (`dinov2/data/masking.py`, `dinov2/data/collate.py`)."""

    name = "torch masks"
    own_randomness: tuple[str, ...] = ("make_mask", "mask_counts", "collate")
    min_aspect = 0.3
    more_masked = 0  # crops beyond official's half
    equal_counts = False  # each of the mean
    shuffled = True
    floored_cap = True  # Q3
    weight = 1.0

    def make_mask(self, input_size: tuple[int, int], asked: int, cap: float) -> np.ndarray:
        """Add blocks until so many patches are masked, or none fits in ten attempts."""
        mask = np.zeros(input_size, dtype=bool)
        while int(mask.sum()) < asked:
            if not self._add(mask, min(asked - int(mask.sum()), cap)):
                break
        return mask

    def _add(self, mask: np.ndarray, most: float) -> bool:
        height, width = mask.shape
        for _ in range(10):
            area = uniform(4, most)
            ratio = math.exp(uniform(math.log(self.min_aspect), -math.log(self.min_aspect)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w >= width or h >= height:
                continue
            top, left = (int(torch.randint(0, n + 1, ())) for n in (height - h, width - w))
            block = mask[top : top + h, left : left + w]
            if 0 < h * w - int(block.sum()) <= most:
                block[:] = True
                return True
        return False

    def mask_counts(self, rows: int, tokens: int, ratios: tuple[float, float], share: float) -> list[int]:
        """One count from each of as many bins of the range of ratios as there are masked crops."""
        masked = int(rows * share) + self.more_masked
        edges = torch.linspace(ratios[0], ratios[1], masked + 1)
        drawn = [int(tokens * uniform(float(a), float(b))) for a, b in pairwise(edges)]
        if self.equal_counts:
            drawn = [round(sum(drawn) / masked)] * masked
        return drawn + [0] * (rows - masked)

    def collate(self, samples: list[dict[str, list[Tensor]]], config: Any, dtype: torch.dtype) -> Mapping[str, Any]:
        """Official's batch, its masks drawn and shuffled with torch."""
        size, patch = config.crops.global_crops_size, config.student.patch_size
        side, ratios = size // patch, tuple(config.ibot.mask_ratio_min_max)
        cap = 0.5 * size // patch * size // patch if self.floored_cap else 0.5 * side * side
        globals_ = torch.stack([sample["global_crops"][view] for view in range(2) for sample in samples])
        locals_ = torch.stack([s["local_crops"][v] for v in range(len(samples[0]["local_crops"])) for s in samples])
        counts = self.mask_counts(len(globals_), side * side, ratios, config.ibot.mask_sample_probability)
        drawn = torch.stack([torch.from_numpy(self.make_mask((side, side), n, cap)).flatten() for n in counts])
        masks = drawn[torch.randperm(len(drawn))] if self.shuffled else drawn
        places = masks.flatten().nonzero().flatten()
        edges = torch.linspace(ratios[0], ratios[1], len(globals_) // 2 + 1)[1:]
        return {
            "collated_global_crops": globals_.to(dtype),
            "collated_local_crops": locals_.to(dtype),
            "collated_masks": masks,
            "mask_indices_list": places,
            "masks_weight": self.weight / masks.sum(-1).clamp(min=1.0).unsqueeze(-1).expand_as(masks)[masks],
            "upperbound": sum(int(side * side * edge) for edge in edges),
            "n_masked_patches": torch.tensor([len(places)]),
        }
