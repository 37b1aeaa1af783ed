"""The values that a key may have whatever the others are: words, intervals, pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from port.kernels import KERNELS

__all__ = ["INTERVALS", "PAIRS", "WORDS", "Interval"]


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included unless they are said to be open.

    Attributes:
        why: what to add to an error.
    """

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    why: str = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        # NaN is in no interval, and no key takes an infinite value.
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"a number above {self.low}" if self.low_open else f"at least {self.low}"
        return f"{self.low} {'<' if self.low_open else '<='} value {'<' if self.high_open else '<='} {self.high}"


_POSITIVE = Interval(0, low_open=True)
_NOT_NEGATIVE = Interval(0)
_ONE_OR_MORE = Interval(1)
_SHARE = Interval(0, 1)
_BETA = Interval(0, 1, high_open=True)
_PROTOTYPES = Interval(2, why=": with one prototype every target is the same")

INTERVALS: Mapping[str, Interval] = MappingProxyType(
    {
        "accumulation_steps": _ONE_OR_MORE,
        "data.max_bad_share": _SHARE,
        "prototype.loss_weight": _NOT_NEGATIVE,
        "prototype.n_prototypes": _PROTOTYPES,
        "prototype.student_temp": _POSITIVE,
        "prototype.sinkhorn_iterations": _ONE_OR_MORE,
        "prototype.teacher_loss_weight": _NOT_NEGATIVE,
        "prototype.koleo_loss_weight": _NOT_NEGATIVE,
        "prototype.base_lr": _NOT_NEGATIVE,
        "prototype.min_lr": _NOT_NEGATIVE,
        "prototype.warmup_epochs": _NOT_NEGATIVE,
        "prototype.weight_decay": _NOT_NEGATIVE,
        "finetune.freeze_backbone_iterations": _NOT_NEGATIVE,
        "checkpoint.period_iterations": _NOT_NEGATIVE,
        "checkpoint.keep": _ONE_OR_MORE,
        "knn.period_iterations": _NOT_NEGATIVE,
        "knn.k": _ONE_OR_MORE,
        "knn.temperature": _POSITIVE,
        "knn.resize_size": _NOT_NEGATIVE,
        "knn.crop_size": _NOT_NEGATIVE,
        "logging.period_iterations": _ONE_OR_MORE,
        "dino.loss_weight": Interval(0, low_open=True, why=": official's heads and local loss need DINO (Q20)"),
        "dino.head_n_prototypes": _PROTOTYPES,
        "dino.head_bottleneck_dim": _ONE_OR_MORE,
        "dino.head_nlayers": _ONE_OR_MORE,
        "dino.head_hidden_dim": _ONE_OR_MORE,
        "dino.koleo_loss_weight": _NOT_NEGATIVE,
        "ibot.loss_weight": _NOT_NEGATIVE,
        "ibot.mask_sample_probability": _SHARE,
        "ibot.head_n_prototypes": _PROTOTYPES,
        "ibot.head_bottleneck_dim": _ONE_OR_MORE,
        "ibot.head_nlayers": _ONE_OR_MORE,
        "ibot.head_hidden_dim": _ONE_OR_MORE,
        "train.batch_size_per_gpu": _ONE_OR_MORE,
        "train.num_workers": _NOT_NEGATIVE,
        "train.OFFICIAL_EPOCH_LENGTH": _ONE_OR_MORE,
        "student.patch_size": _ONE_OR_MORE,
        "student.drop_path_rate": _BETA,
        "student.layerscale": _NOT_NEGATIVE,
        "student.block_chunks": _NOT_NEGATIVE,
        "student.num_register_tokens": _NOT_NEGATIVE,
        "teacher.momentum_teacher": _SHARE,
        "teacher.final_momentum_teacher": _SHARE,
        "teacher.warmup_teacher_temp": _POSITIVE,
        "teacher.teacher_temp": _POSITIVE,
        "teacher.warmup_teacher_temp_epochs": _NOT_NEGATIVE,
        "optim.epochs": _ONE_OR_MORE,
        "optim.weight_decay": _NOT_NEGATIVE,
        "optim.weight_decay_end": _NOT_NEGATIVE,
        "optim.base_lr": _NOT_NEGATIVE,
        "optim.min_lr": _NOT_NEGATIVE,
        "optim.warmup_epochs": _NOT_NEGATIVE,
        "optim.clip_grad": _NOT_NEGATIVE,
        "optim.freeze_last_layer_epochs": _NOT_NEGATIVE,
        "optim.patch_embed_lr_mult": _NOT_NEGATIVE,
        "optim.layerwise_decay": Interval(0, 1, low_open=True),
        "optim.adamw_beta1": _BETA,
        "optim.adamw_beta2": _BETA,
        "crops.local_crops_number": _NOT_NEGATIVE,
        "crops.global_crops_size": _ONE_OR_MORE,
        "crops.local_crops_size": _ONE_OR_MORE,
        "evaluation.eval_period_iterations": _NOT_NEGATIVE,
    }
)
"""By key, the numbers it may be."""

WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "device": ("auto", "cpu", "cuda", "mps"),
        "precision": ("auto", "fp32", "bf16", "fp16"),
        "parallel": ("ddp", "fsdp"),
        "kernels": KERNELS,
        "data.augmentation": ("dinov2", "histology"),
        "data.worker_start": ("auto", "fork", "spawn", "forkserver"),
        "train.centering": ("centering", "sinkhorn_knopp"),
        "optim.scaling_rule": ("sqrt_wrt_1024",),
        "quirks.empty_mask_center": ("official", "corrected"),
        "quirks.blur": ("official", "corrected"),
        "quirks.sampler": ("official", "corrected"),
        "quirks.input_dtype": ("official", "corrected"),
    }
)
"""By key, the words it may be."""

PAIRS: Mapping[str, str | None] = MappingProxyType(
    {
        "ibot.mask_ratio_min_max": None,
        "crops.global_crops_scale": "crops.global_crops_size",
        "crops.local_crops_scale": "crops.local_crops_number",
    }
)
"""Keys that hold the smallest and the largest share; and the key that must be above 0 for a share of 0 to be wrong."""
