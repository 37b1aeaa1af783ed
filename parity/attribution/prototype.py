"""Signatures of differences 0004 and 0005 in a prototype loss: which tokens, and how they are averaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from parity.attribution.losses import reductions
from parity.prototype_definition import PrototypeDefinition
from parity.results import Finding

__all__ = ["attribute_prototype"]

_CLOSE = 1e-9
_OFFICIAL = "none: official has no prototype loss; judged by its definition"


def attribute_prototype(
    mode: str, mine: float, definition: PrototypeDefinition, inputs: Mapping[str, Tensor], singles: Tensor
) -> Iterator[Finding]:
    """Name the tokens and the average that explain a value other than the definition's, and the ratio of the two.

    Args:
        mode: of the subject's loss.
        mine: the subject's value in float64.
        definition: with the subject's settings.
        inputs: `student`, `teacher` (R, N, D), `masks` (R, N), in float64.
        singles: the subject's values where one masked token alone is masked, (M,), in the order of the masks.
    """
    masks = inputs["masks"]
    losses = definition.token_losses(inputs["student"], inputs["teacher"])
    expected = float(definition.prototype_loss(mode, inputs["student"], inputs["teacher"], masks))
    if abs(mine - expected) <= _CLOSE * abs(expected):
        return
    ratio = f"definition / yours = {expected / mine:.4g}" if mine else "yours is 0"
    said = _matching(losses[masks], masks, mine)
    if said:
        yield _average(mode, ratio, said, masks)
        return
    for which, selected in (("every token", torch.ones_like(masks)), ("unmasked tokens", ~masks)):
        if _matching(losses[selected], selected, mine) or _is(mine, _per_row(losses, selected)):
            yield Finding(
                "0004",
                f"prototype mode {mode!r}: {ratio}: it is taken over {which}, {int(selected.sum())} of them, where the "
                f"definition takes the {int(masks.sum())} masked ones",
                "migration 0004 (keep the masked mode alone): python -m parity explain 0004",
                _OFFICIAL,
            )
            return
    said = _by_singles(singles, masks, mine)
    if said:
        yield _average(mode, ratio, said, masks)


def _average(mode: str, ratio: str, said: str, masks: Tensor) -> Finding:
    return Finding(
        "0005",
        f"prototype mode {mode!r}: {ratio}: {said}. {int(masks.sum())} masked tokens in {len(masks)} rows",
        "migration 0005 (per-sample normalisation): python -m parity explain 0005",
        _OFFICIAL,
    )


def _matching(token_losses: Tensor, selected: Tensor, mine: float) -> str:
    """Return the sentence of the reduction that gives the value; nothing where none does."""
    given = reductions(token_losses, selected, _weights(selected).to(token_losses))
    return next((sentence for sentence, value in given.items() if _is(mine, value)), "")


def _by_singles(singles: Tensor, masks: Tensor, mine: float) -> str:
    """The same from the subject's own token losses: whatever its prototypes and temperatures are.

    Alone, a token's loss has lost every factor but the number of rows; the averages named here do not divide by it.
    """
    if not len(singles):
        return ""
    given = reductions(singles, masks, _weights(masks).to(singles))
    known = ("the total number of masked tokens", "normalised twice", "by the masked rows alone")
    return next((s for s, value in given.items() if any(k in s for k in known) and _is(mine, value)), "")


def _weights(selected: Tensor) -> Tensor:
    """1 / selected tokens of the token's row, in the order of the selected tokens."""
    return (1 / selected.sum(-1).clamp(min=1).double()).unsqueeze(-1).expand_as(selected)[selected]


def _per_row(losses: Tensor, selected: Tensor) -> Tensor:
    return (losses[selected] * _weights(selected)).sum() / len(selected)


def _is(mine: float, value: Tensor) -> bool:
    return abs(float(value.detach()) - mine) <= _CLOSE * abs(mine)
