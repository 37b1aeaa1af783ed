"""What official's centres, Sinkhorn's arguments and iBOT's denominator do."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from parity.quirks.evidence.tools import Observation
from parity.reference import Reference

__all__ = ["empty_batch", "mean_of_means", "pending_update", "sinkhorn_argument", "unmasked_rows"]

_WIDTH = 4


def sinkhorn_argument(reference: Reference) -> Observation:
    """Call iBOT's Sinkhorn where torch says that there is no group, with an all_reduce that doubles."""
    loss = reference.module("loss").iBOTPatchLoss(_WIDTH)
    count = torch.tensor([5])
    reduced: list[Tensor] = []

    def double(tensor: Tensor, *_: Any, **__: Any) -> None:
        reduced.append(tensor)
        tensor.mul_(2)

    with mock.patch.object(dist, "is_initialized", return_value=False), mock.patch.object(dist, "all_reduce", double):
        loss.sinkhorn_knopp_teacher(torch.randn(5, _WIDTH), teacher_temp=0.1, n_masked_patches_tensor=count)
    seen = f"{len(reduced)} reductions without a group; the argument 5 is {int(count)} afterwards"
    return Observation(bool(reduced) and int(count) == 10, seen)


def mean_of_means(reference: Reference) -> Observation:
    """Update iBOT's centre on two ranks with one and three masked tokens, whose mean is 3 and whose means' mean 2."""
    tokens = (torch.zeros(1, 1, _WIDTH), torch.full((1, 3, _WIDTH), 4.0))
    losses = [reference.module("loss").iBOTPatchLoss(_WIDTH, center_momentum=0.0) for _ in tokens]
    sent: list[list[Tensor]] = [[], []]

    def keep(tensor: Tensor, *_: Any, **__: Any) -> None:
        sent[rank].append(tensor)

    with mock.patch.object(dist, "get_world_size", return_value=2), mock.patch.object(dist, "all_reduce", keep):
        for rank in (0, 1):  # `keep` reads which one is sending
            losses[rank].update_center(tokens[rank])
        for mine, other in zip(*sent, strict=True):
            mine.add_(other)  # what rank 0's handle would bring
        losses[0].apply_center_update()
    center = float(losses[0].center.flatten()[0])
    return Observation(abs(center - 2) < 1e-5, f"centre {center:g} of tokens 0 | 4 4 4 on two ranks, whose mean is 3")


def empty_batch(reference: Reference) -> Observation:
    """Update iBOT's centre with no token, then with good ones."""
    loss = reference.module("loss").iBOTPatchLoss(_WIDTH)
    states = []
    for masked in (torch.zeros(1, 0, _WIDTH), torch.ones(1, 2, _WIDTH)):
        loss.update_center(masked)
        loss.apply_center_update()
        states.append(bool(loss.center.isnan().any()))
    words = ["NaN" if state else "finite" for state in states]
    return Observation(all(states), f"centre {words[0]} after no masked patch, {words[1]} after the next batch")


def pending_update(reference: Reference) -> Observation:
    """Update a centre and look at it before and after the next call, and at what would be saved between them."""
    confirmed, seen = True, []
    for name in ("DINOLoss", "iBOTPatchLoss"):
        loss = getattr(reference.module("loss"), name)(_WIDTH)
        batch = torch.ones((2, _WIDTH) if name == "DINOLoss" else (1, 2, _WIDTH))
        loss.update_center(batch)
        saved = {key: value.clone() for key, value in loss.state_dict().items()}
        early = float(loss.center.abs().max())
        loss.softmax_center_teacher(batch, teacher_temp=0.1)
        late = float(loss.center.abs().max())
        resumed = getattr(reference.module("loss"), name)(_WIDTH)
        resumed.load_state_dict(saved)
        resumed.apply_center_update()
        lost = float(resumed.center.abs().max())
        confirmed &= early == 0 and late > 0 and lost == 0
        seen.append(
            f"{name}: centre {early:g} after the update, {late:g} after the next call, {lost:g} if resumed between"
        )
    return Observation(confirmed, "; ".join(seen))


def unmasked_rows(reference: Reference) -> Observation:
    """Compute iBOT's loss of one masked crop, alone and beside three crops without masks."""
    loss = reference.module("loss").iBOTPatchLoss(_WIDTH)
    student, teacher = torch.randn(2, _WIDTH), torch.softmax(torch.randn(2, _WIDTH), -1)
    masks = torch.zeros(4, 3, dtype=torch.bool)
    masks[0, :2] = True
    weights = torch.full((2,), 0.5)
    alone, among = (float(loss.forward_masked(student, teacher, masks[:n], 2, weights)) for n in (1, 4))
    return Observation(abs(alone / among - 4) < 1e-4, f"{alone:.3f} alone, {among:.3f} beside three unmasked crops")
