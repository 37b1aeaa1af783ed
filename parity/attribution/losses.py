"""Signatures of difference 0005, per-sample normalisation: which reduction of the token losses gives the value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.judge import promoted
from parity.oracle import Float64Oracle
from parity.results import Finding

__all__ = ["attribute_ibot", "reductions"]

_STUDENT_TEMP = 0.1
_CLOSE = 1e-9


def reductions(token_losses: Tensor, masks: Tensor, masks_weight: Tensor) -> dict[str, Tensor]:
    """Return the ways in which forks reduce token losses, by a sentence that names each.

    Args:
        token_losses: cross-entropy of each masked token (M,).
        masks: bool (R, N), the rows that the tokens come from.
        masks_weight: 1 / masked tokens of the token's row (M,).
    """
    rows = masks.shape[0]
    masked_rows = int(masks.any(-1).sum())
    weighted = (token_losses * masks_weight).sum()
    return {
        "the sum is divided by the total number of masked tokens, so that a crop counts by its mask ratio": (
            token_losses.mean()
        ),
        "tokens are weighted by 1/M_i and then averaged over tokens: normalised twice": (weighted / len(token_losses)),
        "the weighted sum is divided by the number of images, not by the 2B rows": 2 * weighted / rows,
        "the weighted sum is divided by the masked rows alone, unmasked ones do not count": weighted / masked_rows,
        "the weighted sum is not divided by the number of rows": weighted,
        "the token losses are summed without weights and divided by the rows": token_losses.sum() / rows,
    }


def attribute_ibot(reference: Any, subject: Any, inputs: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Name the reduction that explains an iBOT loss other than official's, and the ratio of the two.

    Args:
        reference: the official stack.
        subject: the stack under test; both offer `ibot_loss`.
        inputs: `student`, `teacher` (M, K), `masks` (R, N) and `masks_weight` (M,).
    """
    given = promoted(inputs)
    masks, weight = given["masks"], given["masks_weight"]
    with Float64Oracle():
        values = [
            float(stack.ibot_loss(given["student"].clone(), given["teacher"], masks, len(weight), weight))
            for stack in (reference, subject)
        ]
    official, mine = values
    if abs(official - mine) <= _CLOSE * abs(official):
        return
    tokens = -(given["teacher"] * F.log_softmax(given["student"] / _STUDENT_TEMP, dim=-1)).sum(-1)
    ratio = official / mine if mine else float("inf")
    for sentence, value in reductions(tokens, masks, weight).items():
        if abs(float(value) - mine) <= _CLOSE * abs(mine):
            share = masks.sum(-1)[masks.any(-1)] / masks.sum()
            yield Finding(
                "0005",
                f"official / yours = {ratio:.4g}: {sentence}. {len(tokens)} masked tokens in {masks.shape[0]} rows; "
                f"shares of the loss by row {_percent(share)}, official's are equal",
                "migration 0005 (per-sample normalisation): python -m parity explain 0005",
                "dinov2/loss/ibot_patch_loss.py:116-126",
            )
            return


def _percent(shares: Tensor) -> str:
    ordered = torch.sort(shares, descending=True).values
    return ", ".join(f"{float(s):.0%}" for s in ordered)
