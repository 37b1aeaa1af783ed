from __future__ import annotations

import pytest
import torch

import port.losses
from bench.parts import loss_inputs, masked_rows, student_losses, time_losses, time_update
from bench.settings import Settings
from bench.worker import Worker
from parity.adapters.official import OfficialStack

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


def test_both_sides_compute_the_same_loss(official_stack: OfficialStack) -> None:
    """Else their times would not be comparable; gradients by every logit too."""
    results = []
    for losses in (port.losses, official_stack._reference.module("loss")):
        inputs = loss_inputs(TINY, 0)
        loss = student_losses(losses, inputs, 3)
        results.append((loss, *torch.autograd.grad(loss, inputs[:3])))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("side", ["port", "official"])
def test_losses_are_timed_in_a_process_of_their_own(side: str) -> None:
    """A time for the loss and its gradients."""
    with Worker(time_losses, "losses", TINY, side) as worker:
        worker.receive()
        assert worker.iterate() > 0
        worker.send("stop")
        assert "peak" in worker.receive()


@pytest.mark.parametrize("side", ["port", "official"])
def test_the_optimizer_is_timed_in_a_process_of_its_own(side: str) -> None:
    """A time for AdamW and the moving average; no matrix is multiplied."""
    with Worker(time_update, "update", TINY, side) as worker:
        assert worker.receive()["flops"] == 0
        assert worker.iterate() > 0
        worker.send("stop")
        assert "peak" in worker.receive()
