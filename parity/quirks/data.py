"""Quirks of official's data: samplers, resuming, masks, crops, data sets."""

from __future__ import annotations

from parity.quirks.quirk import Quirk

__all__ = ["DATA"]

_SAMPLER = "quirks.sampler"

DATA: tuple[Quirk, ...] = (
    Quirk(
        "Q21",
        "seeds the data with the iteration; train.seed is never read",
        ("train/train.py:206-208", "data/samplers.py:216"),
        policy="corrected",
        evidence="measured",
        probe="sampling.resumed_order",
        switch=_SAMPLER,
    ),
    Quirk(
        "Q22",
        "compares a rank's advance with the whole data set's length",
        ("data/samplers.py:188-192",),
        policy="corrected",
        evidence="measured",
        probe="sampling.advance",
        unproven="official training never advances; forks and dinov3 with cache_dataset do",
        switch=_SAMPLER,
    ),
    Quirk(
        "Q23",
        "each rank keeps its shard for the whole run",
        ("data/samplers.py:215-229",),
        policy="corrected",
        evidence="measured",
        probe="sampling.fixed_shard",
        switch=_SAMPLER,
        threads=("dinov2#358",),
    ),
    Quirk(
        "Q24",
        "N mod world images are never seen",
        ("data/samplers.py:128-132",),
        policy="corrected",
        evidence="measured",
        probe="sampling.unseen",
        switch=_SAMPLER,
    ),
    Quirk(
        "Q25",
        "draws one random number per image in Python, in every pass and worker",
        ("data/samplers.py:125-157", "train/train.py:200"),
        policy="corrected",
        evidence="measured",
        probe="sampling.python_loop",
        unproven="the seconds (6.9 s for ImageNet-1k on one rank) were measured once, and depend on the machine",
        switch=_SAMPLER,
    ),
    Quirk(
        "Q26",
        "block masks miss their target by a patch or more in one of 15",
        ("data/masking.py:49-86",),
        policy="documented",
        evidence="measured",
        probe="masks.deficit",
    ),
    Quirk(
        "Q27",
        "a block never spans the grid's height or width",
        ("data/masking.py:56",),
        policy="documented",
        evidence="measured",
        probe="masks.full_width",
    ),
    Quirk(
        "Q28",
        "the head's buffer has more rows than masked patches",
        ("data/collate.py:30", "train/ssl_meta_arch.py:170-194", "train/ssl_meta_arch.py:253-262"),
        policy="documented",
        evidence="measured",
        probe="masks.padded_rows",
    ),
    Quirk(
        "Q29",
        "counts masked rows over 2B, with 0-dim tensors as bounds of the ratio",
        ("data/collate.py:20-34",),
        policy="documented",
        evidence="measured",
        probe="masks.counted_rows",
    ),
    Quirk(
        "Q30",
        "crops are cast to fp16 whatever the precision",
        ("train/train.py:136", "train/train.py:189"),
        policy="corrected",
        evidence="measured",
        probe="loop.half_inputs",
        switch="quirks.input_dtype",
    ),
    Quirk(
        "Q31",
        "ImageNet must have its exact length; ImageNet22k cannot write its files",
        (
            "data/datasets/image_net.py:166-169",
            "data/datasets/image_net_22k.py:142",
            "data/datasets/image_net_22k.py:297-299",
        ),
        policy="corrected",
        evidence="measured",
        probe="augmentation.data_sets",
        threads=("dinov2#100",),
    ),
    Quirk(
        "Q32",
        "global_crops_teacher are the student's crops, and nothing reads them",
        ("data/augmentations.py:109",),
        policy="corrected",
        evidence="measured",
        probe="augmentation.teacher_crops",
        threads=("dinov2#365",),
    ),
)
