"""What passes from the networks to the losses, and what these return.

Shapes: B images, n local crops per image, N patches per global crop, M masked patches in the 2B global crops,
D features, K prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from port.losses.cross_entropy import first_rows
from port.models import LogitFactors

__all__ = [
    "Logits",
    "Losses",
    "StudentOutputs",
    "TeacherTargets",
    "first_logits",
    "mean_losses",
    "split_logits",
]

Logits = Tensor | LogitFactors


class TeacherTargets(NamedTuple):
    """What the student is trained towards.

    Attributes:
        dino: probabilities (2, B, K), crop 2 first.
        ibot: probabilities (M, K), or None without iBOT.
        patch_tokens: the teacher's (2B, N, D), or None without the prototype loss.
        assignments: of these tokens to prototypes (2B * N, P), or None to let the prototype loss make them.
        temperature: of the targets.
    """

    dino: Tensor
    ibot: Tensor | None
    patch_tokens: Tensor | None
    assignments: Tensor | None
    temperature: float


class StudentOutputs(NamedTuple):
    """The student's logits and features.

    Logits are tensors, or with `kernels=fast` the factors of which the losses make them, some rows at a time.

    Attributes:
        local_cls: logits (nB, K).
        global_cls: logits (2B, K).
        masked_patches: logits (M, K), or None without iBOT.
        global_cls_features: (2B, D), before the head.
        masked_patch_features: (M, D), before the head, or None without iBOT and without the prototype loss.
    """

    local_cls: Logits
    global_cls: Logits
    masked_patches: Logits | None
    global_cls_features: Tensor
    masked_patch_features: Tensor | None


class Losses(NamedTuple):
    """The scalars of one batch.

    Attributes:
        total: what is differentiated.
        optimised: the addends of `total` by name, weights applied: they sum to it.
        displayed: official's values, in official's order (`dinov2/train/ssl_meta_arch.py:298-371`). Weights are not
            applied, except KoLeo's; the optimised sum holds twice the KoLeo and iBOT values shown here (Q15).
    """

    total: Tensor
    optimised: dict[str, Tensor]
    displayed: dict[str, Tensor]

    def detached(self) -> Losses:
        """Return the values without their graph."""
        return Losses(
            self.total.detach(),
            {name: value.detach() for name, value in self.optimised.items()},
            {name: value.detach() for name, value in self.displayed.items()},
        )


def mean_losses(losses: Sequence[Losses]) -> Losses:
    """Return the mean over micro-batches; one micro-batch's losses as they are."""
    if len(losses) == 1:
        return losses[0]

    def mean(values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([value[name] for value in values]).mean(0) for name in values[0]}

    return Losses(
        torch.stack([part.total for part in losses]).mean(0),
        mean([part.optimised for part in losses]),
        mean([part.displayed for part in losses]),
    )


def split_logits(logits: Logits, n_rows: Sequence[int]) -> list[Logits]:
    """Cut the logits of one row of tokens (1, T, K) into those of some tokens each, (T_i, K)."""
    rows = logits.features if isinstance(logits, LogitFactors) else logits
    parts = [part.squeeze(0) for part in rows.split(list(n_rows), dim=1)]
    return [logits._replace(features=part) for part in parts] if isinstance(logits, LogitFactors) else [*parts]


def first_logits(logits: Logits, n_rows: int) -> Logits:
    """Return the logits of the first tokens: (T, K) to (n_rows, K)."""
    if isinstance(logits, LogitFactors):
        return logits._replace(features=first_rows(logits.features, n_rows))
    return first_rows(logits, n_rows)
