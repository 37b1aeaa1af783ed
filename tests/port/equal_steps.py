"""One training step in several ways: runs in float64, batches cut and joined, and how far two results differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from checkpoint_runs import copied
from omegaconf import DictConfig
from tiny_training import tiny_batch, tiny_model
from torch import Tensor

from parity.oracle import Float64Oracle
from port.checkpoint import training_state
from port.data import Batch
from port.optim import PrototypeOptimizer, build_optimizer, build_schedulers
from port.step import StepReport, TrainStep
from port.training.parallel import checkpoint_activations, parallelise

__all__ = ["COMMON", "ROUNDING", "WAYS", "DoubleRun", "double_batch", "even_batches", "joined", "largest_difference"]

ROUNDING = 1e-10
"""Largest relative difference that rounding explains after several steps in float64.

A sum in another order differs by about 1e-16 of its terms, and so do losses and gradient norms (at most 5e-16).
AdamW divides by the root of the second moment, so that a gradient which is nothing but rounding still moves its
parameter: the keys' bias, which cancels in the softmax. That is the largest difference measured, 3.2e-12 after four
steps. A micro-batch that counts a hundredth too much shows at 1e-3 and above.
"""
WAYS: dict[str, tuple[str, ...]] = {
    "centring, one head": (),
    "centring, two heads, prototypes": ("ibot.separate_head=true", "prototype.loss_weight=0.7"),
    "Sinkhorn, one head, prototypes": ("train.centering=sinkhorn_knopp", "prototype.loss_weight=0.7"),
    "Sinkhorn, two heads": ("train.centering=sinkhorn_knopp", "ibot.separate_head=true"),
}
"""Configurations that between them take every path of the objective."""
COMMON = (
    "optim.clip_grad=0.5",
    "prototype.n_prototypes=7",
    "prototype.bias=true",
    "prototype.base_lr=0.1",
    "prototype.warmup_epochs=1",
)
"""What all of them share: clipping that bites, and a small bank with every parameter that it can have."""


class DoubleRun:
    """A model with its step and optimizers in float64, Sinkhorn's request for float32 included."""

    def __init__(
        self,
        overrides: Sequence[str] = (),
        *,
        mode: str = "plain",
        seed: int = 0,
        images: int = 8,
        recompute: bool = False,
    ) -> None:
        """Build the run; `images` is its global batch, of which the prototypes' learning rate is a function."""
        self.model = tiny_model((*COMMON, *overrides), seed).double()
        if recompute:
            checkpoint_activations(self.model.student["backbone"])
        if mode != "plain":
            parallelise(self.model, mode, torch.device("cpu"))
        cfg = self.model.cfg
        optimizer = build_optimizer(cfg, self.model.get_params_groups())
        self.optimizers: dict[str, torch.optim.Optimizer] = {"student": optimizer}
        prototypes = None
        if self.model.do_prototypes:
            prototypes = PrototypeOptimizer(self.model.prototype_loss, cfg, images)
            self.optimizers["prototypes"] = prototypes.optimizer
        self.step = TrainStep(self.model, optimizer, build_schedulers(cfg), cfg, prototypes=prototypes)

    def advance(self, batches: Sequence[Sequence[Batch]], start: int = 1) -> list[StepReport]:
        """Carry out one iteration for each group of micro-batches; the heads' last layers wait until iteration 2."""
        with Float64Oracle():
            return [self.step.run(micro, iteration) for iteration, micro in enumerate(batches, start)]

    def state(self) -> dict[str, Tensor]:
        """Return the run's tensors, which writing into restores; sharded ones are."""
        return training_state(self.model, self.optimizers)

    def result(self) -> dict[str, Tensor]:
        """Return whole copies of parameters, teacher, centres with their pending update, and moments."""
        return copied(self.state())


def double_batch(cfg: DictConfig, n_images: int, seed: int) -> Batch:
    """Return a batch whose crops are float64."""
    batch = tiny_batch(cfg, n_images, seed)
    for key in ("collated_global_crops", "collated_local_crops"):
        crops = batch[key]
        batch[key] = crops.double()
    return batch


def even_batches(cfg: DictConfig, number: int, n_images: int, seed: int = 0) -> list[Batch]:
    """Return batches that mask equally many patches, so that the ranks' iBOT centres have one mean (Q12)."""
    candidates: dict[int, list[Batch]] = {}
    for offset in range(400):
        batch = double_batch(cfg, n_images, 1000 * seed + offset)
        same = candidates.setdefault(batch["mask_indices_list"].shape[0], [])
        same.append(batch)
        if len(same) == number:
            return same
    raise AssertionError(f"no {number} of 400 batches mask equally many patches")


def joined(batches: Sequence[Batch]) -> Batch:
    """Return one batch of all images with their masks: crop 1 of every image first, as collate lays them."""
    n_images = sum(batch["collated_global_crops"].shape[0] for batch in batches) // 2
    whole: dict[str, object] = {}
    for key in ("collated_global_crops", "collated_local_crops", "collated_masks"):
        parts = [batch[key] for batch in batches]
        n_crops = sum(len(part) for part in parts) // n_images
        by_crop = zip(*(part.chunk(n_crops) for part in parts), strict=True)
        whole[key] = torch.cat([part for crop in by_crop for part in crop])
    masks = cast(Tensor, whole["collated_masks"])
    rows = masks.flatten().nonzero().flatten()
    whole["mask_indices_list"] = rows
    whole["masks_weight"] = 1 / masks.sum(-1).float()[rows // masks.shape[1]]
    whole["upperbound"] = sum(batch["upperbound"] for batch in batches)
    whole["n_masked_patches"] = torch.tensor([len(rows)])
    return cast(Batch, whole)


def largest_difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> tuple[float, str]:
    """Return the largest difference of two results, relative to the largest number of its tensor, and its name."""
    assert first.keys() == second.keys()
    worst = (0.0, "none")
    for name, value in first.items():
        assert value.shape == second[name].shape, name
        scale = max(value.abs().max().item(), second[name].abs().max().item(), 1e-300)
        worst = max(worst, ((value - second[name]).abs().max().item() / scale, name))
    return worst
