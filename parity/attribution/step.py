"""Signatures that show in a step: how many images pass through whom (difference 0001), and what is frozen (Q41)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from omegaconf import DictConfig

from parity.census import PatchCensus
from parity.results import Finding

__all__ = ["attribute_census", "attribute_frozen"]


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


def attribute_frozen(
    official: Mapping[str, Mapping[str, float]], mine: Mapping[str, Mapping[str, float]]
) -> Iterator[Finding]:
    """Explain parameters that learn in a step in which official holds their rate at 0.

    Args:
        official: lr and weight decay as applied, by name.
        mine: the subject's.
    """
    frozen = [name for name, rates in official.items() if rates["lr"] == 0 and name in mine]
    learning = [name for name in frozen if mine[name]["lr"] > 0]
    if learning and len(frozen) < len(official):
        yield Finding(
            "Q41",
            f"{len(learning)} of {len(frozen)} parameters that official freezes in this step learn at a rate of "
            f"{mine[learning[0]]['lr']:.4g} ({learning[0]}): the last layer's rate is 0 in the first epochs",
            "give the last layer the schedule last_layer_lr: python -m parity explain Q41",
            "dinov2/train/train.py:98-100, 113-119",
        )
