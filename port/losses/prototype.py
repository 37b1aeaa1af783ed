"""Patch prototype loss: masked patches are assigned to the prototypes of a linear bank. Official has no such loss.

It follows sections 4 and 5 of the migration document: masked patches only, every image weighed alike.

Shapes: R rows (2B global crops), N patches per row, M masked patches in all rows, D features, K prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

from port.losses.koleo import KoLeoLoss
from port.losses.precision import autocast_off, widened
from port.losses.sinkhorn_log import log_sinkhorn_knopp

__all__ = ["LinearPrototypeBank", "PrototypeLoss", "PrototypeTerms"]


class PrototypeTerms(NamedTuple):
    """Scalars, without the configured weights.

    Attributes:
        student: cross-entropy of masked patches; its gradient reaches the student's tokens only.
        teacher: cross-entropy of the teacher's own patches; its gradient reaches the bank only.
        koleo: KoLeo on the prototypes; its gradient reaches the bank only. 0 where its weight is 0.
    """

    student: Tensor
    teacher: Tensor
    koleo: Tensor


class LinearPrototypeBank(nn.Module):
    """Scores features by their direction against K prototypes, which keep their length.

    Attributes:
        weight: the prototypes (K, D), drawn from N(0, 1).
        bias: (K,), from zero, or None.
    """

    bias: nn.Parameter | None

    def __init__(self, embed_dim: int, n_prototypes: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_prototypes, embed_dim))
        self.register_parameter("bias", nn.Parameter(torch.zeros(n_prototypes)) if bias else None)

    def forward(self, features: Tensor, *, frozen: bool = False) -> Tensor:
        """Return logits: (..., D) to (..., K).

        Args:
            features: of any length; they are normalised.
            frozen: whether to keep the gradient from the bank.
        """
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if frozen:
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        return linear(normalize(features, p=2, dim=-1), weight, bias)


class PrototypeLoss(nn.Module):
    """Trains student tokens towards the teacher's assignments, and the bank towards the teacher's tokens.

    The student's term does not move the bank: if it did, the bank could lower the term by following the student,
    down to prototypes that no longer tell patches apart. The bank learns from the teacher's tokens alone, for
    which Sinkhorn keeps the prototypes equally used and KoLeo keeps them apart.

    Attributes:
        bank: the prototypes.
    """

    def __init__(self, embed_dim: int, cfg_prototype: DictConfig) -> None:
        """Draw the bank.

        Args:
            embed_dim: D.
            cfg_prototype: the configuration's section `prototype`; `loss_weight`, `teacher_loss_weight` and
                `koleo_loss_weight` are for the caller to apply.

        Raises:
            ValueError: a value of the configuration is out of its range.
        """
        super().__init__()
        _check(cfg_prototype)
        self.student_temp = float(cfg_prototype.student_temp)
        self.sinkhorn_iterations = int(cfg_prototype.sinkhorn_iterations)
        self.bank = LinearPrototypeBank(embed_dim, cfg_prototype.n_prototypes, cfg_prototype.bias)
        # Distances between all prototypes take K * K numbers, so they are not made in vain.
        self.koleo_loss = KoLeoLoss() if cfg_prototype.koleo_loss_weight > 0 else None

    @torch.no_grad()
    def assign(self, teacher_patch_tokens: Tensor, teacher_temp: float) -> Tensor:
        """Return the assignments of teacher tokens by Sinkhorn over the tokens of all ranks: (..., D) to (T, K).

        `forward` does the same from logits that it needs anyway; this is for micro-batches that are to be assigned
        together, so that they equal one large batch.

        Args:
            teacher_patch_tokens: T tokens in all, before any head.
            teacher_temp: temperature, > 0.
        """
        with autocast_off(teacher_patch_tokens.device):
            logits = self.bank(widened(teacher_patch_tokens).flatten(0, -2))
            return log_sinkhorn_knopp(logits, teacher_temp, self.sinkhorn_iterations)

    def forward(
        self,
        teacher_patch_tokens: Tensor,
        student_masked_tokens: Tensor,
        mask_indices_list: Tensor,
        masks_weight: Tensor,
        teacher_temp: float,
        assignments: Tensor | None = None,
    ) -> PrototypeTerms:
        """Return the three terms; autocast is off inside, and half precision is widened.

        The assignments depend on all R * N teacher tokens of all ranks, unmasked ones too. With one weight 1 / M_i
        for each masked patch of row i, the student's term is

            1 / R * sum over rows i of the mean cross-entropy of row i's masked patches

        where rows without masks count in R and add nothing, as in iBOT (`dinov2/loss/ibot_patch_loss.py:126`).

        Args:
            teacher_patch_tokens: (R, N, D), before any head; no gradient reaches them.
            student_masked_tokens: (M, D), before any head.
            mask_indices_list: int64 (M,), places of the masked patches in the R * N, in the order of the tokens.
            masks_weight: (M,), 1 / masked patches in the same row.
            teacher_temp: temperature of the assignments, > 0.
            assignments: (R * N, K) from `assign` over more tokens than these, as micro-batches share them; None to
                assign these tokens alone.

        Returns:
            Scalars, at least float32. Without masked patches the student's is a zero that can be differentiated.

        Raises:
            ValueError: the numbers of masked tokens, indices and weights differ.
        """
        counts = [len(student_masked_tokens), len(mask_indices_list), len(masks_weight)]
        if len(set(counts)) > 1:
            raise ValueError(
                f"{counts[0]} student tokens, {counts[1]} mask indices and {counts[2]} weights; expected as many of "
                "each, one per masked patch (collate's masks_weight, not one weight per image)"
            )
        with autocast_off(teacher_patch_tokens.device):
            teacher_logits = self.bank(widened(teacher_patch_tokens.detach()).flatten(0, 1))
            if assignments is None:
                assignments = log_sinkhorn_knopp(teacher_logits.detach(), teacher_temp, self.sinkhorn_iterations)
            teacher = cross_entropy(teacher_logits / self.student_temp, assignments)
            student_logits = self.bank(widened(student_masked_tokens), frozen=True)
            per_token = cross_entropy(
                student_logits / self.student_temp, assignments[mask_indices_list], reduction="none"
            )
            student = (per_token * masks_weight).sum() / teacher_patch_tokens.shape[0]
            koleo = teacher.new_zeros(()) if self.koleo_loss is None else self.koleo_loss(self.bank.weight)
        return PrototypeTerms(student, teacher, koleo)


def _check(cfg: DictConfig) -> None:
    """Raise ValueError where a value of the section `prototype` is out of its range."""
    if cfg.n_prototypes < 2:
        raise ValueError(f"prototype.n_prototypes is {cfg.n_prototypes}; expected at least 2 to choose from")
    if not cfg.student_temp > 0:
        raise ValueError(f"prototype.student_temp is {cfg.student_temp}; expected more than 0, such as 0.1")
    if cfg.sinkhorn_iterations < 1:
        raise ValueError(f"prototype.sinkhorn_iterations is {cfg.sinkhorn_iterations}; expected 1 or more, such as 3")
