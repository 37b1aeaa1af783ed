from __future__ import annotations

import pytest
import torch

from bench.parts import loss_inputs, masked_rows, port_losses, student_losses, time_losses, time_update
from bench.settings import Settings
from bench.worker import Worker
from parity.adapters.official import OfficialStack
from port.kernels import KERNELS

TINY = Settings(
    arch="vit_parity4", batch=2, prototypes=16, local_crops=3, global_size=64, local_size=32, reference="pypi"
)


def test_as_many_patches_as_a_batch_masks() -> None:
    """ViT-S/16 at 224 pixels: int(0.3 * 196) = 58 for each of 8 images; their masks hold as many."""
    assert masked_rows(Settings(batch=8)) == 464
    inputs = loss_inputs(TINY, 0)
    assert int(inputs.masks.sum()) == len(inputs.patches) == masked_rows(TINY) == 8


def test_inputs_have_the_shapes_of_a_step() -> None:
    """3 local crops and 2 global ones of 2 images; targets sum to one; the student's logits want gradients."""
    inputs = loss_inputs(TINY, 0)
    assert inputs.local_cls.shape == (6, 16)
    assert inputs.global_cls.shape == (4, 16)
    assert inputs.dino.shape == (2, 2, 16)
    torch.testing.assert_close(inputs.dino.sum(-1), torch.ones(2, 2))
    torch.testing.assert_close(inputs.ibot.sum(-1), torch.ones(8))
    assert all(tensor.requires_grad for tensor in inputs[:3])
    assert not inputs.ibot.requires_grad


@pytest.mark.parametrize("kernels", KERNELS)
def test_both_sides_compute_the_same_loss(official_stack: OfficialStack, kernels: str) -> None:
    """Else their times would not be comparable; gradients by every logit too."""
    results = []
    for losses, one_tensor in ((port_losses(kernels), True), (official_stack._reference.module("loss"), False)):
        inputs = loss_inputs(TINY, 0)
        loss = student_losses(losses, inputs, 3, one_tensor=one_tensor)
        results.append((loss, *torch.autograd.grad(loss, inputs[:3])))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("kernels", "fast"), [("fast", True), ("official_order", False)])
def test_losses_of_port_have_the_run_s_kernels(kernels: str, fast: bool) -> None:
    """Their own default is official's order, whatever training's is."""
    losses = port_losses(kernels)
    assert losses.DINOLoss(4).fast is fast
    assert losses.iBOTPatchLoss(4).fast is fast


@pytest.mark.parametrize("side", ["port", "official"])
def test_losses_are_timed_in_a_process_of_their_own(side: str) -> None:
    """A time for the loss and its gradients."""
    with Worker(time_losses, "losses", TINY, side) as worker:
        worker.receive()
        assert worker.iterate().seconds > 0
        worker.send("stop")
        assert "peak" in worker.receive()


@pytest.mark.parametrize("side", ["port", "official"])
def test_the_optimizer_is_timed_in_a_process_of_its_own(side: str) -> None:
    """A time for AdamW and the moving average; no matrix is multiplied."""
    with Worker(time_update, "update", TINY, side) as worker:
        assert worker.receive()["flops"] == 0
        assert worker.iterate().seconds > 0
        worker.send("stop")
        assert "peak" in worker.receive()
