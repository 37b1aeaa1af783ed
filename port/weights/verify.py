"""Whether an exported model computes what the backbone computes.

Shapes: B images, D embedding dimension, N patches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from port.models import DinoVisionTransformer

__all__ = ["Run", "Verification", "probe_images", "run_backbone", "verify"]

Run = Callable[[Tensor, "Tensor | None"], tuple[Tensor, Tensor]]
"""Takes images (B, 3, height, width) and masks, bool (B, N) or None, and returns CLS (B, D) and patch tokens (B, N, D)
in the type of the images. A model that has no mask token is given None."""

LIMIT = 1e-10
"""Largest difference in double precision, as a share of the largest output.

Rounding gives 1e-15 for a small model and about 1e-12 for a deep one that amplifies it ten thousand times. Single
precision could not tell a wrong conversion from rounding: with LayerScale near its initial 1e-5, swapped queries and
keys change outputs by less than 1e-7 of their size.
"""


@dataclass(frozen=True)
class Verification:
    """How far an exported model is from the backbone, over CLS and patch tokens, without and with masks.

    Attributes:
        single: largest difference in float32.
        double: the same in float64.
        scale: largest output of the backbone.
        images: shape of the images.
    """

    single: float
    double: float
    scale: float
    images: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether the models are the same; a NaN anywhere is no pass."""
        return self.double <= LIMIT * self.scale

    def __str__(self) -> str:
        size = "×".join(map(str, self.images))
        return (
            f"max difference {self.double:.1e} in float64 (limit {LIMIT * self.scale:.1e}), {self.single:.1e} in "
            f"float32, outputs up to {self.scale:.2g}, images {size}"
        )


def probe_images(backbone: DinoVisionTransformer, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return two images of noise (2, 3, height, width), float32, of the learned size, and masks (2, N), bool."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = backbone.patch_embed.patches_resolution
    p = backbone.patch_size
    images = torch.randn(2, 3, rows * p, columns * p, generator=generator)
    return images, torch.rand(2, rows * columns, generator=generator) < 0.5


def run_backbone(backbone: DinoVisionTransformer) -> Run:
    """Return the backbone as a `Run`."""

    def run(images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        features = backbone.forward_features(images, masks)
        return features["x_norm_clstoken"], features["x_norm_patchtokens"]

    return run


@torch.inference_mode()
def verify(
    backbone: DinoVisionTransformer,
    load: Callable[[torch.dtype], Run],
    *,
    has_mask_token: bool,
    stored: DinoVisionTransformer | None = None,
) -> Verification:
    """Compare an exported model with the backbone it came from, in both precisions.

    Args:
        backbone: float32, in evaluation mode.
        load: loads the exported model from its files in a given type.
        has_mask_token: whether the exported model takes masks.
        stored: the backbone with sums that the layout stores formed in float32 already. It must compute the very
            numbers of `backbone` in float32, and takes its place in float64, where forming them later rounds less.

    Raises:
        ValueError: outputs have other shapes, or `stored` computes anything else.
    """
    images, masks = probe_images(backbone)
    stored = stored or backbone
    _check_same(run_backbone(backbone)(images, masks), run_backbone(stored)(images, masks))
    found: dict[torch.dtype, float] = {}
    scale = 0.0
    for dtype in (torch.float32, torch.float64):
        ours, theirs = run_backbone(copy.deepcopy(stored).to(dtype)), load(dtype)
        largest = 0.0
        for mask in (None, masks) if has_mask_token else (None,):
            expected, actual = ours(images.to(dtype), mask), theirs(images.to(dtype), mask)
            for a, b in zip(expected, actual, strict=True):
                if a.shape != b.shape:
                    raise ValueError(f"the exported model returns {tuple(b.shape)}, expected {tuple(a.shape)}")
                largest = max(largest, _largest(a - b))
                scale = max(scale, _largest(a))
        found[dtype] = largest
    return Verification(found[torch.float32], found[torch.float64], scale, tuple(images.shape))


def _check_same(expected: tuple[Tensor, Tensor], actual: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(expected, actual, strict=True):
        if not torch.equal(a, b):
            raise ValueError(
                f"as the layout stores it, the backbone computes something else, by up to {_largest(a - b)}"
            )


def _largest(x: Tensor) -> float:
    """The largest magnitude; infinite for NaN, which `max` would pass over."""
    return float(x.abs().max().nan_to_num(nan=float("inf")))
