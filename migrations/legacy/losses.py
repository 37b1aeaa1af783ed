"""Sections 4 and 5, "current": losses that divide by the masked tokens of the whole batch.

Shapes: R rows (images or crops), N tokens per row, M selected tokens in all rows, K prototypes, D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from port.losses.sinkhorn import sinkhorn_knopp

__all__ = [
    "PROTOTYPE_MODES",
    "ibot_patch_loss",
    "patch_prototype_loss",
    "prototype_cross_entropy",
    "select_tokens",
    "token_cross_entropy",
]

PROTOTYPE_MODES = ("visible", "masked", "separate")
"""The fork's `--clustering_mode`; the document keeps `masked` alone (section 4)."""

STUDENT_TEMP = 0.1
TEACHER_TEMP = 0.07
"""Official's `student_temp` (`dinov2/loss/ibot_patch_loss.py:35`) and default `teacher.teacher_temp`."""


def token_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the cross-entropy per token, (M, K) logits and (M, K) targets to (M,).

    Official's, `dinov2/loss/ibot_patch_loss.py:31`, without its sign.
    """
    return -torch.sum(teacher * F.log_softmax(student / STUDENT_TEMP, dim=-1), dim=-1)


def ibot_patch_loss(student: Tensor, teacher: Tensor, n_masked_patches: int) -> Tensor:
    """Return the iBOT loss divided by the number of masked tokens.

    Departs from `dinov2/loss/ibot_patch_loss.py:123-126`, which weights each token by one over the masked
    tokens of its own row and divides by the number of rows. NaN where nothing is masked: 0 / 0.

    Args:
        student: logits (M, K), or more rows of which the first M count.
        teacher: target probabilities, likewise.
        n_masked_patches: M.
    """
    loss = token_cross_entropy(student[:n_masked_patches], teacher[:n_masked_patches])
    return loss.sum() / loss.new_tensor(n_masked_patches)


def select_tokens(mode: str, token_masks: Tensor) -> Tensor:
    """Return which tokens a clustering mode takes, bool (R, N), from the masked ones.

    Raises:
        ValueError: `mode` is not one of `PROTOTYPE_MODES`.
    """
    if mode == "visible":
        return ~token_masks
    if mode == "masked":
        return token_masks
    if mode == "separate":
        return torch.ones_like(token_masks)
    raise ValueError(f"clustering mode {mode!r} is not known, expected one of {', '.join(PROTOTYPE_MODES)}")


def prototype_cross_entropy(
    student_tokens: Tensor, teacher_tokens: Tensor, selected: Tensor, prototypes: Tensor
) -> Tensor:
    """Return the clustering loss of each selected token, (M,), before any normalisation.

    Scores are cosines. The teacher's assignments come from Sinkhorn over all R*N tokens and are selected
    afterwards, so they depend on tokens that are not selected.

    Args:
        student_tokens: features (R, N, D).
        teacher_tokens: features (R, N, D); no gradient reaches them.
        selected: bool (R, N).
        prototypes: unit vectors (K, D).
    """
    with torch.no_grad():
        scores = F.normalize(teacher_tokens, dim=-1).flatten(0, 1) @ prototypes.t()
        assignments = sinkhorn_knopp(scores, TEACHER_TEMP, n_samples=scores.shape[0])
        targets = assignments.view(*selected.shape, -1)[selected]
    logits = F.normalize(student_tokens, dim=-1)[selected] @ prototypes.t()
    return token_cross_entropy(logits, targets)


def patch_prototype_loss(
    mode: str, student_tokens: Tensor, teacher_tokens: Tensor, token_masks: Tensor, prototypes: Tensor
) -> Tensor:
    """Return the clustering loss of a mode, divided by the number of tokens that the mode takes.

    Official has no such loss. In mode `separate` the fork makes both sets of tokens in a further, unmasked
    forward pass; here they are arguments. NaN where no token is taken: 0 / 0.

    Args:
        mode: one of `PROTOTYPE_MODES`.
        student_tokens: features (R, N, D).
        teacher_tokens: features (R, N, D).
        token_masks: bool (R, N), True = masked.
        prototypes: unit vectors (K, D).

    Raises:
        ValueError: the mode is not known.
    """
    selected = select_tokens(mode, token_masks)
    loss = prototype_cross_entropy(student_tokens, teacher_tokens, selected, prototypes)
    return loss.sum() / loss.new_tensor(loss.shape[0])
