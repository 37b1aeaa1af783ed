"""Texts that the tests of difference 3 share: the document's block masks, and a step that takes masks."""

from __future__ import annotations

__all__ = ["BLOCKS", "STEP"]

STEP = """from helpers import {name} as make


def train(student, teacher, images, args):
    selected = make(len(images), {arguments})
    targets = teacher(images, token_masks=None)
    return student(images, token_masks=selected), targets
"""

BLOCKS = """import math
import random

import numpy as np


class BlockMaskGenerator:
    def __init__(self, input_size, min_num_patches=4, min_aspect=0.3, max_aspect=None):
        if not isinstance(input_size, tuple):
            input_size = (input_size, input_size)
        self.height, self.width = input_size
        self.min_num_patches = min_num_patches
        max_aspect = max_aspect or 1 / min_aspect
        self.log_aspect_ratio = (math.log(min_aspect), math.log(max_aspect))

    def _mask(self, mask, max_mask_patches):
        delta = 0
        for _ in range(10):
            target_area = random.uniform(self.min_num_patches, max_mask_patches)
            aspect_ratio = math.exp(random.uniform(*self.log_aspect_ratio))
            h = int(round(math.sqrt(target_area * aspect_ratio)))
            w = int(round(math.sqrt(target_area / aspect_ratio)))
            if w < self.width and h < self.height:
                top = random.randint(0, self.height - h)
                left = random.randint(0, self.width - w)
                num_masked = mask[top:top+h, left:left+w].sum()
                if 0 < h * w - num_masked <= max_mask_patches:
                    mask[top:top+h, left:left+w] = 1
                    delta += h * w - num_masked
                    if delta >= max_mask_patches:
                        break
        return delta

    def __call__(self, num_masking_patches):
        mask = np.zeros((self.height, self.width), dtype=bool)
        mask_count = 0
        while mask_count < num_masking_patches:
            delta = self._mask(mask, num_masking_patches - mask_count)
            if delta == 0:
                break
            mask_count += delta
        return mask.flatten()


# What follows stays.
LIMIT = 98
"""
