"""The prototype bank's own optimizer and schedule; official has neither."""

from __future__ import annotations

import math

import torch
from omegaconf import DictConfig
from torch import nn

from port.optim.schedules import CosineScheduler

__all__ = ["PrototypeOptimizer"]


class PrototypeOptimizer:
    """AdamW over the bank, on a cosine of its own, outside the student's clipping, decay and moving average.

    Attributes:
        optimizer: over the bank's parameters, in one group.
        lr: learning rate by iteration.
    """

    def __init__(self, bank: nn.Module, cfg: DictConfig, global_batch_size: int) -> None:
        """Build optimizer and schedule.

        Args:
            bank: whose parameters are optimised.
            cfg: the whole configuration; `prototype`, `optim.epochs`, the betas and the epoch's length are read.
            global_batch_size: images per optimizer step; the peak is scaled by sqrt(images / 1024), as the
                backbone's is.
        """
        prototype, epoch_length = cfg.prototype, cfg.train.OFFICIAL_EPOCH_LENGTH
        self.lr = CosineScheduler(
            base_value=prototype.base_lr * math.sqrt(global_batch_size / 1024.0),
            final_value=prototype.min_lr,
            total_iters=cfg.optim.epochs * epoch_length,
            warmup_iters=prototype.warmup_epochs * epoch_length,
            start_warmup_value=0,
        )
        self.optimizer = torch.optim.AdamW(
            bank.parameters(),
            betas=(cfg.optim.adamw_beta1, cfg.optim.adamw_beta2),
            weight_decay=prototype.weight_decay,
        )

    def prepare(self, iteration: int) -> None:
        """Set the learning rate of an iteration and forget the last gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.lr[iteration])
        self.optimizer.zero_grad(set_to_none=True)
