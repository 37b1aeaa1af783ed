"""The prototype loss from its definition, token by token: official has none, so this stands in official's place.

Shapes: R rows (2B global crops), N patches per row, D features, K = D prototypes: the axes of the feature space.

For every patch j of row i, with x / |x| its direction and p its softmax over prototypes,

    a(i, j) = the teacher's assignment: Sinkhorn over all R * N tokens, masked or not
    l(i, j) = - sum over k of a(i, j, k) * log p(i, j, k)
    loss    = 1 / R * sum over rows i with masks of the mean of l(i, j) over the masked patches j of row i

A row without masks counts in R and adds nothing, as in iBOT (`dinov2/loss/ibot_patch_loss.py:126`). The student's
tokens get the gradient, the teacher's none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from parity.errors import SubjectError
from parity.stack import stack_name

__all__ = ["SETTINGS", "PrototypeDefinition", "settings_of"]

SETTINGS: Mapping[str, float] = {"student_temp": 0.1, "teacher_temp": 0.07, "sinkhorn_iterations": 3}
"""What a stack's `prototype_loss` is taken to use where its attribute `prototype_settings` does not say otherwise."""


def settings_of(stack: object) -> dict[str, float]:
    """Return the settings of a stack's prototype loss.

    Raises:
        SubjectError: `prototype_settings` is no mapping, or has a key that is not one of `SETTINGS`.
    """
    given: Any = getattr(stack, "prototype_settings", {})
    if not isinstance(given, Mapping) or not set(given) <= set(SETTINGS):
        raise SubjectError(
            f"{stack_name(stack)}.prototype_settings is {given!r:.80}, expected a mapping with some of "
            f"{', '.join(SETTINGS)}"
        )
    return {**SETTINGS, **given}


class PrototypeDefinition:
    """A stack of one capability, written to be read: a loop over rows and tokens, nothing reused.

    Args:
        settings: `student_temp`, `teacher_temp` and `sinkhorn_iterations`.
    """

    name = "the definition"
    claims_bitwise = False

    def __init__(self, settings: Mapping[str, float]) -> None:
        self._student_temp = settings["student_temp"]
        self._teacher_temp = settings["teacher_temp"]
        self._iterations = int(settings["sinkhorn_iterations"])

    def prototype_loss(self, mode: str, student_tokens: Tensor, teacher_tokens: Tensor, masks: Tensor) -> Tensor:
        """Return the loss of masked tokens, whatever the mode is called."""
        assigned = self.assignments(teacher_tokens)
        loss = student_tokens.sum() * 0  # differentiable where nothing is masked
        for i, row_masks in enumerate(masks):
            places = row_masks.nonzero().flatten().tolist()
            for j in places:
                loss = loss + self._cross_entropy(assigned[i, j], student_tokens[i, j]) / len(places)
        return loss / len(masks)

    def token_losses(self, student_tokens: Tensor, teacher_tokens: Tensor) -> Tensor:
        """Return the cross-entropy of every token, (R, N, D) twice to (R, N)."""
        rows, patches, _ = student_tokens.shape
        assigned = self.assignments(teacher_tokens)
        losses = [
            self._cross_entropy(assigned[i, j], student_tokens[i, j]) for i in range(rows) for j in range(patches)
        ]
        return torch.stack(losses).view(rows, patches)

    @torch.no_grad()
    def assignments(self, teacher_tokens: Tensor) -> Tensor:
        """Return each token's share of each prototype, (R, N, D) to (R, N, K); a token's shares sum to 1."""
        tokens = teacher_tokens.flatten(0, 1)
        q = torch.stack([torch.exp(_direction(token) / self._teacher_temp) for token in tokens])
        for _ in range(self._iterations):
            q = q / q.sum(0, keepdim=True)  # each prototype is used as much as every other
            q = q / q.sum(1, keepdim=True)  # each token is shared out whole
        return q.view_as(teacher_tokens)

    def _cross_entropy(self, assigned: Tensor, token: Tensor) -> Tensor:
        scores = _direction(token) / self._student_temp
        return -(assigned * (scores - torch.logsumexp(scores, 0))).sum()


def _direction(token: Tensor) -> Tensor:
    """The cosines of a token to the axes (D,) to (K,)."""
    return token / token.square().sum().sqrt()
