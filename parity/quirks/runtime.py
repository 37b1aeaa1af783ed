"""Quirks of official's run: what it needs, checkpoints, logs, command line."""

from __future__ import annotations

from parity.quirks.quirk import Quirk

__all__ = ["RUNTIME"]

RUNTIME: tuple[Quirk, ...] = (
    Quirk(
        "Q48",
        "training does not import without xformers",
        ("train/ssl_meta_arch.py:22-25",),
        policy="corrected",
        evidence="measured",
        probe="runtime.xformers_required",
    ),
    Quirk(
        "Q49",
        "uses FSDP's _handles and _streams, which torch has no longer",
        ("train/ssl_meta_arch.py:351-353", "fsdp/__init__.py:65-69"),
        policy="corrected",
        evidence="measured",
        probe="runtime.fsdp_internals",
        threads=("dinov2#265", "dinov2#310", "dinov2#391"),
    ),
    Quirk(
        "Q50",
        "annotates with float | None, which its pinned Python 3.9 cannot import",
        ("layers/attention.py:58", "layers/block.py:150-152"),
        policy="corrected",
        evidence="source",
        probe="runtime.union_annotations_evaluated",
        unproven="the failing import needs Python 3.9, which parity does not run on",
        threads=("dinov2#539",),
        since="12592a9",
    ),
    Quirk(
        "Q51",
        "NCCL only; SLURM's variables beat torchrun's; a part of them raises",
        ("distributed/__init__.py:160-178", "distributed/__init__.py:264"),
        policy="corrected",
        evidence="measured",
        probe="runtime.environment",
    ),
    Quirk(
        "Q52",
        "saves neither scaler nor generators, a file per rank; two keys unread",
        ("fsdp/__init__.py:96-116", "train/train.py:151-163"),
        policy="corrected",
        evidence="source",
        probe="loop.checkpoints",
        unproven="a resume of official training needs FSDP on CUDA",
    ),
    Quirk(
        "Q53",
        "cannot resume on torch >= 2.6: weights_only refuses a ShardedTensor",
        ("fsdp/__init__.py:114-116",),
        policy="corrected",
        evidence="measured",
        probe="runtime.weights_only",
    ),
    Quirk(
        "Q54",
        "the warning about keys not used (_flat_param) loses no parameter",
        ("fsdp/__init__.py:98-99", "fsdp/__init__.py:114-116"),
        policy="documented",
        evidence="read",
        unproven=(
            "needs two FSDP ranks, which official starts on CUDA only; seen once with two gloo ranks on torch 2.14, "
            "not with 2.0 or NCCL"
        ),
        threads=("dinov2#544", "dinov2#273"),
    ),
    Quirk(
        "Q55",
        "looks for NaN after the optimizer and the teacher took their step",
        ("train/train.py:249-275",),
        policy="corrected",
        evidence="measured",
        probe="step.late_nan",
        unproven="the teacher's step after a skipped one needs a gradient scaler, hence CUDA",
    ),
    Quirk(
        "Q56",
        "divides the session's time by all iterations, those before a resume too",
        ("train/train.py:229", "train/train.py:271", "logging/helpers.py:128-130"),
        policy="corrected",
        evidence="measured",
        probe="loop.time_per_iteration",
    ),
    Quirk(
        "Q57",
        "an epoch is 1250 iterations; a finished run makes one more when resumed",
        ("train/train.py:155-156", "train/train.py:230-231", "logging/helpers.py:126"),
        policy="corrected",
        evidence="measured",
        probe="loop.one_more_iteration",
    ),
    Quirk(
        "Q58",
        "accepts unknown keys; --eval does nothing; all ranks write config.yaml",
        ("utils/config.py:40-46", "utils/config.py:67-72", "train/train.py:39"),
        policy="corrected",
        evidence="measured",
        probe="runtime.unknown_keys",
    ),
)
