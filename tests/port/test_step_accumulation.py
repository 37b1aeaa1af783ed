"""Gradient accumulation: k micro-batches are one large batch, but for three terms, which are named here.

Not equal, by definition: KoLeo looks for neighbours within a micro-batch; stochastic depth keeps a rounded-down share
of each micro-batch; collate draws masks for each micro-batch (the comparisons feed both sides the same masks).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from equal_steps import ROUNDING, WAYS, DoubleRun, double_batch, joined, largest_difference
from tiny_training import tiny_config
from torch import Tensor

from parity.oracle import Float64Oracle
from port.data import Batch
from port.losses.centering import CenteredLoss
from port.models.block import get_branges_scales
from port.ssl_meta_arch import SSLMetaArch

NO_KOLEO = "dino.koleo_loss_weight=0"


def micro_batches(k: int, iterations: int, n_images: int = 2) -> list[list[Batch]]:
    """Return k micro-batches for each iteration; they mask unlike numbers of patches."""
    cfg = tiny_config()
    return [[double_batch(cfg, n_images, seed=10 * i + j) for j in range(k)] for i in range(iterations)]


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_micro_batches_are_one_large_batch(way: str, k: int) -> None:
    """After four clipped steps, warm-up and frozen last layer included: every tensor of the run, and every loss."""
    accumulated, whole = (DoubleRun([*WAYS[way], NO_KOLEO]) for _ in range(2))
    batches = micro_batches(k, 4)
    reports = accumulated.advance(batches)
    expected = whole.advance([[joined(micro)] for micro in batches])
    clipped = [norm for name, norm in reports[-1].gradient_norms.items() if name != "prototype_loss"]
    assert min(clipped) > 0.5  # so the clipping is at work
    assert largest_difference(accumulated.result(), whole.result())[0] < ROUNDING
    for report, other in zip(reports, expected, strict=True):
        for kind in ("optimised", "displayed"):
            assert largest_difference(getattr(report.losses, kind), getattr(other.losses, kind))[0] < ROUNDING
        assert largest_difference(report.gradient_norms, other.gradient_norms)[0] < ROUNDING


def test_the_comparison_sees_a_wrong_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """One micro-batch whose gradient counts a hundredth more than its half: far beyond rounding."""
    accumulated, whole = (DoubleRun([NO_KOLEO]) for _ in range(2))
    batches = micro_batches(2, 2)
    whole.advance([[joined(micro)] for micro in batches])
    shares = iter([1.01, 1.0, 1.0, 1.0])
    monkeypatch.setattr(accumulated.step, "_backward", lambda loss: (next(shares) * loss).backward())
    accumulated.advance(batches)
    assert largest_difference(accumulated.result(), whole.result())[0] > 1e-3


def test_a_micro_batch_without_masks_counts_as_its_images() -> None:
    """Two unmasked images among four: iBOT and prototype terms of the four, where no mean over patches exists."""
    overrides = [NO_KOLEO, *WAYS["centring, two heads, prototypes"]]
    accumulated, whole = DoubleRun(overrides), DoubleRun(overrides)
    unmasked = double_batch(tiny_config(["ibot.mask_sample_probability=0.01"]), 2, seed=5)
    assert len(unmasked["mask_indices_list"]) == 0
    batches = [[double_batch(tiny_config(), 2, seed=i), unmasked] for i in range(3)]
    accumulated.advance(batches)
    whole.advance([[joined(micro)] for micro in batches])
    assert largest_difference(accumulated.result(), whole.result())[0] < ROUNDING


def test_the_order_of_micro_batches_does_not_matter() -> None:
    """Reversed, with KoLeo: the same means."""
    forwards, backwards = DoubleRun(), DoubleRun()
    batches = micro_batches(3, 3)
    forwards.advance(batches)
    backwards.advance([micro[::-1] for micro in batches])
    assert largest_difference(forwards.result(), backwards.result())[0] < ROUNDING


def test_koleo_is_the_mean_of_the_micro_batches() -> None:
    """Its neighbours come from the micro-batch; all other terms of a first step are the large batch's."""
    (micro,) = micro_batches(2, 1, n_images=3)
    (both,) = DoubleRun().advance([micro])
    alone = [DoubleRun().advance([[part]])[0].losses.displayed["koleo_loss"] for part in micro]
    (whole,) = DoubleRun().advance([[joined(micro)]])
    mine, other = dict(both.losses.displayed), dict(whole.losses.displayed)
    koleo, of_all = mine.pop("koleo_loss"), other.pop("koleo_loss")
    torch.testing.assert_close(koleo, sum(alone, start=torch.zeros(())) / 2, rtol=ROUNDING, atol=0)
    # A nearest neighbour among more samples is nearer: the term is minus the log of its distance.
    assert of_all > koleo + 1e-3
    assert largest_difference(mine, other)[0] < ROUNDING


def test_stochastic_depth_keeps_a_share_of_each_micro_batch() -> None:
    """At rate 0.3, eight images keep int(5.6) = 5; two times four keep int(2.8) = 2 each, and another scale."""
    whole, scale = get_branges_scales(torch.zeros(8, 1, 1), 0.3)
    part, part_scale = get_branges_scales(torch.zeros(4, 1, 1), 0.3)
    assert (len(whole), len(part)) == (5, 2)
    assert (scale, part_scale) == (8 / 5, 4 / 2)


def test_masks_are_drawn_for_each_micro_batch() -> None:
    """At probability 0.3, two images' four crops get one mask; one image's two crops get none, twice over."""
    cfg = tiny_config(["ibot.mask_sample_probability=0.3", "ibot.mask_ratio_min_max=[0.3,0.5]"])
    masked_crops = [int(double_batch(cfg, n, seed=0)["collated_masks"].any(1).sum()) for n in (2, 1)]
    assert masked_crops == [1, 0]


class Calls:
    """Counts calls of a method and passes them on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.number = 0
        original: Callable[..., object] = getattr(owner, name)

        def counted(*args: object, **kwargs: object) -> object:
            self.number += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)


def test_one_teacher_and_one_centre_update_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of four micro-batches: two moving averages, and two updates of each of the two centres."""
    teacher = Calls(monkeypatch, SSLMetaArch, "update_teacher")
    centres = Calls(monkeypatch, CenteredLoss, "_start_update")
    run = DoubleRun(["ibot.separate_head=true"])
    run.advance(micro_batches(4, 2))
    assert (teacher.number, centres.number) == (2, 4)


def test_centres_take_a_tenth_of_the_mean_over_all_micro_batches() -> None:
    """From zero, by hand: CLS logits averaged over images, patch logits over all masked patches however spread."""
    run = DoubleRun(["ibot.separate_head=true"])
    (micro,) = micro_batches(3, 1)
    assert len({len(batch["mask_indices_list"]) for batch in micro}) > 1
    cls_logits: list[Tensor] = []
    patch_logits: list[Tensor] = []
    with torch.no_grad(), Float64Oracle():
        for batch in micro:
            features = run.model.teacher["backbone"](batch["collated_global_crops"], is_training=True)
            cls_logits.append(run.model.teacher["dino_head"](features["x_norm_clstoken"]))
            masked = features["x_norm_patchtokens"][batch["collated_masks"]]
            patch_logits.append(run.model.teacher["ibot_head"](masked))
    run.advance([micro])
    result = run.result()
    for name, logits in (("dino_loss", cls_logits), ("ibot_patch_loss", patch_logits)):
        expected = 0.1 * torch.cat(logits).mean(0)
        torch.testing.assert_close(result[f"model.{name}.center"].flatten(), expected, rtol=1e-12, atol=1e-14)


def test_the_teacher_moves_once_towards_the_student() -> None:
    """The teacher is m t + (1 - m) s, with the student after the only optimizer step."""
    run = DoubleRun()
    before = run.result()
    run.advance(micro_batches(4, 1), start=3)
    after, m = run.result(), run.step.schedules.momentum[3]
    for name in run.model.student.state_dict():
        expected = m * before[f"model.teacher.{name}"] + (1 - m) * after[f"model.student.{name}"]
        torch.testing.assert_close(after[f"model.teacher.{name}"], expected, rtol=1e-13, atol=1e-15)
    assert {float(value) for name, value in after.items() if ".step." in name} == {1.0}
