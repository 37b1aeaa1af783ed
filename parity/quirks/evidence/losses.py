"""What official's losses do with half precision, opposite features and large logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softmax

from parity.quirks.evidence.tools import Observation
from parity.reference import Reference

__all__ = ["dino_in_half", "ibot_in_half", "koleo_in_half", "koleo_opposite", "sinkhorn_overflow"]

_TEMPERATURE = 0.1


def koleo_in_half(reference: Reference) -> Observation:
    """Give KoLeo two equal rows, in fp32 and in fp16, and one row in fp16."""
    loss = reference.module("loss").KoLeoLoss()
    rows = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [-2.0, 1.0, 0.5]])
    single = float(loss(rows[:1].half()))
    half = rows.half().requires_grad_()
    value = loss(half)
    value.backward()
    equal = float(value.detach())
    assert half.grad is not None
    lost = bool(half.grad.isnan().any())
    full = float(loss(rows))
    confirmed = math.isfinite(full) and math.isinf(equal) and lost and math.isinf(single)
    gradient = "NaN in the gradient" if lost else "a finite gradient"
    seen = f"equal rows: fp32 {full:.2f}, fp16 {equal:.2f} and {gradient}; one row in fp16: {single:.2f}"
    return Observation(confirmed, seen)


def koleo_opposite(reference: Reference) -> Observation:
    """Give KoLeo two opposite rows: each one's only neighbour is at distance 2."""
    value = float(reference.module("loss").KoLeoLoss()(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])))
    apart = -math.log(2)
    return Observation(value > 1, f"{value:.2f} for two opposite rows, where -log 2 = {apart:.2f} is their distance's")


def ibot_in_half(reference: Reference) -> Observation:
    """Compute iBOT's cross-entropy of fp16 logits, and of the same logits in fp32."""
    lossfunc = reference.module("loss.ibot_patch_loss").lossfunc
    return _rounds(lambda student, teacher: lossfunc(teacher, student, _TEMPERATURE))


def dino_in_half(reference: Reference) -> Observation:
    """Compute DINO's cross-entropy of fp16 logits, and of the same logits in fp32."""
    loss = reference.module("loss").DINOLoss(64, student_temp=_TEMPERATURE)
    return _rounds(lambda student, teacher: loss([student], [teacher]))


def _rounds(cross_entropy: Callable[[Tensor, Tensor], Tensor]) -> Observation:
    """Confirm that the logits' type decides the accuracy: numbers that fp16 holds exactly give another loss in it."""
    student, teacher = torch.randn(8, 64).half(), softmax(torch.randn(8, 64), dim=-1)
    half = cross_entropy(student, teacher).double()
    full = cross_entropy(student.float(), teacher).double()
    error = float((half - full).abs().max() / full.abs().max())
    return Observation(error > 1e-5, f"the loss of fp16 logits is off by {error:.1e} of that of the same in fp32")


def sinkhorn_overflow(reference: Reference) -> Observation:
    """Balance logits whose largest is 3.5, and then 3.6, at temperature 0.04: exp(90) is beyond float32."""
    losses = reference.module("loss")
    dino, ibot = losses.DINOLoss(4), losses.iBOTPatchLoss(4)

    def finite(largest: float) -> list[bool]:
        logits = torch.tensor([[largest, 0.0, 0.1, 0.2], [0.3, 0.1, 0.0, 0.2]])
        targets = (
            dino.sinkhorn_knopp_teacher(logits, teacher_temp=0.04),
            ibot.sinkhorn_knopp_teacher(logits, teacher_temp=0.04, n_masked_patches_tensor=torch.tensor([2])),
        )
        return [bool(target.isfinite().all()) for target in targets]

    below, above = finite(3.5), finite(3.6)
    words = {True: "finite", False: "not finite"}
    seen = "; ".join(
        f"{name}: 3.5 {words[a]}, 3.6 {words[b]}" for name, a, b in zip(("DINO", "iBOT"), below, above, strict=True)
    )
    return Observation(all(below) and not any(above), seen)
