"""Signatures of a resume: official's training, resumed with something lost, gives the very numbers of the subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from parity.adapters.official_trajectory import LOST
from parity.checks.growth import step_of
from parity.results import Finding

__all__ = ["attribute_resume"]

_CLOSE = 1e-9


def attribute_resume(
    mine: Mapping[str, Tensor], replay: Callable[[str], Mapping[str, Tensor]], stop: int
) -> Iterator[Finding]:
    """Say what a resume lost.

    Args:
        mine: what passed in the subject's training, `step N/losses/NAME` among it.
        replay: official's training, resumed without one of `LOST`.
        stop: the last step before the resume.
    """
    losses = {name: value for name, value in mine.items() if "/losses/" in name and step_of(name) > stop}
    for lost, words in LOST.items():
        if _explains(replay(lost), losses):
            quirk = "Q14" if lost == "pending centre" else ""
            own = "; official's own checkpoint loses it too (Q14)" if quirk else ""
            yield Finding(
                quirk,
                f"after the resume every loss is that of official training which lost the same: {words}{own}",
                "save the centre with the pending update applied: python -m parity explain Q14"
                if quirk
                else "save and load it with the rest of the training's state",
                "dinov2/loss/dino_clstoken_loss.py:76-99" if quirk else "dinov2/train/train.py:150-153",
            )
            return


def _explains(replayed: Mapping[str, Tensor], losses: Mapping[str, Tensor]) -> bool:
    return bool(losses) and all(name in replayed and _same(replayed[name], value) for name, value in losses.items())


def _same(left: Tensor, right: Tensor) -> bool:
    """Equal bit for bit in float32, where only subjects that claim it are trained; but for rounding in float64."""
    if right.dtype is not torch.float64:
        return torch.equal(left, right)
    return torch.allclose(left, right, rtol=_CLOSE, atol=0, equal_nan=True)
