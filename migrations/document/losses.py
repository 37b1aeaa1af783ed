"""Section 5 of the document: one weight per row, gathered for its tokens, and a sum divided by the rows.

Shapes: R rows (the document's B; with section 4's concatenation, both global crops of every image), N tokens
per row, M masked tokens in all rows, K prototypes, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from migrations.legacy.losses import prototype_cross_entropy, token_cross_entropy

__all__ = ["PROTOTYPE_MODES", "ibot_patch_loss", "patch_prototype_loss", "per_sample_mean", "row_weights"]

PROTOTYPE_MODES = ("masked",)
"""What section 4 leaves of the fork's clustering modes."""


def row_weights(token_masks: Tensor) -> Tensor:
    """Return the weights that section 3 makes from masks bool (R, N): (R,), 1 / masked tokens, or 0."""
    n_masked = token_masks.sum(dim=1).float()
    return torch.where(n_masked > 0, 1.0 / n_masked, torch.zeros_like(n_masked))


def per_sample_mean(per_token_loss: Tensor, token_masks: Tensor, masks_weight: Tensor) -> Tensor:
    """Return section 5's sum: each token weighted by its row's weight, over the number of rows.

    The denominator counts unmasked rows too, so a masked row contributes 1/R of its mean and an unmasked one
    nothing: official's rule (`dinov2/loss/ibot_patch_loss.py:123-126`), where R is all global crops. The
    document's prose has each *image* contribute 1/B, which would be twice as much.

    Args:
        per_token_loss: (M,), in the order of `token_masks`.
        token_masks: bool (R, N), True = masked.
        masks_weight: one weight per row, (R,).

    Raises:
        ValueError: there is not one weight per row.
    """
    if masks_weight.shape != token_masks.shape[:1]:
        raise ValueError(
            f"masks_weight has shape {tuple(masks_weight.shape)}, expected ({len(token_masks)},), one weight "
            "per row; official's per-token weights must not be gathered a second time"
        )
    sample_indices = token_masks.nonzero(as_tuple=True)[0]
    per_token_weight = masks_weight[sample_indices].to(per_token_loss.dtype)
    return (per_token_loss * per_token_weight).sum() / len(token_masks)


def ibot_patch_loss(student: Tensor, teacher: Tensor, token_masks: Tensor, masks_weight: Tensor) -> Tensor:
    """Return the iBOT loss with section 5's weights.

    The document repairs its prototype loss only and never says what its `[B]` weights do in an iBOT loss;
    this gives them the one reading under which they work.

    Args:
        student: logits (M, K) of the masked tokens.
        teacher: target probabilities (M, K).
        token_masks: bool (R, N), True = masked.
        masks_weight: one weight per row, (R,).
    """
    return per_sample_mean(token_cross_entropy(student, teacher), token_masks, masks_weight)


def patch_prototype_loss(
    student_tokens: Tensor,
    teacher_tokens: Tensor,
    token_masks: Tensor,
    prototypes: Tensor,
    masks_weight: Tensor | None = None,
) -> Tensor:
    """Return section 5's clustering loss on masked tokens; without weights, its fall-back, a mean over them.

    Args:
        student_tokens: features (R, N, D).
        teacher_tokens: features (R, N, D).
        token_masks: bool (R, N), True = masked.
        prototypes: unit vectors (K, D).
        masks_weight: one weight per row, (R,).
    """
    loss = prototype_cross_entropy(student_tokens, teacher_tokens, token_masks, prototypes)
    if masks_weight is None:
        return loss.mean()
    return per_sample_mean(loss, token_masks, masks_weight)
