"""Signature of difference 0001, the unified forward: who sees how many images."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from parity.census import PatchCensus
from parity.results import Finding

__all__ = ["attribute_census"]


def attribute_census(
    batch_size: int, config: DictConfig, official: PatchCensus, mine: PatchCensus
) -> Iterator[Finding]:
    """Explain a step that passes other numbers of images through teacher and student.

    Args:
        batch_size: images in the batch.
        config: the recipe.
        official: census of official's step.
        mine: census of the subject's step.
    """
    size = config.crops.global_crops_size
    student, teacher = ("student", size, size), ("teacher", size, size)
    expected, seen = official.rows[student], mine.rows[student]
    if seen > expected:
        tokens = (size // config.student.patch_size) ** 2 + 1
        local = (config.crops.local_crops_size // config.student.patch_size) ** 2 + 1
        whole = expected * tokens + config.crops.local_crops_number * batch_size * local
        yield Finding(
            "0001",
            f"{seen} images of {size} px pass through the student ({seen / batch_size:g} per image, in "
            f"{mine.calls[student]} calls) and {mine.rows[teacher]} through the teacher; official passes "
            f"{expected} and {official.rows[teacher]}: {(seen - expected) * tokens / whole:.0%} more student "
            "tokens, and the CLS tokens of DINO's global crops come from unmasked images",
            "migration 0001 (unified forward with masks on the global crops): python -m parity explain 0001",
            "dinov2/train/ssl_meta_arch.py:160, 235-237",
        )
    elif seen < expected:
        yield Finding(
            "0001",
            f"{seen} images of {size} px pass through the student, official passes {expected} (two masked global crops "
            "per image)",
            "migration 0001: python -m parity explain 0001",
            "dinov2/train/ssl_meta_arch.py:235-237",
        )
