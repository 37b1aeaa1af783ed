"""Settings that are legal and surprise: each warning says what happens and what to set instead."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

__all__ = ["effective_drop_path", "training_warnings"]

DROP_PATH_SURPLUS = 0.05
# A rule of thumb: official's own runs have 16 (vitl16_short on 32 GPUs) and 21 (vitl14 on 96) per CLS token of a step.
PROTOTYPES_PER_TOKEN = 64
SMALLEST_GRID = 4  # patches along a side
SMALLEST_BLOCK = 4  # patches, MaskingGenerator's min_num_patches


def training_warnings(cfg: DictConfig, world_size: int, n_images: int | None) -> Iterator[str]:
    """Yield warnings about a configuration that `check_before_training` has found to work."""
    yield from _drop_path(cfg)
    yield from _small_batch(cfg, world_size)
    yield from _data(cfg, world_size, n_images)
    yield from _masks(cfg)
    yield from _lengths(cfg)


def effective_drop_path(rate: float, n_rows: int) -> float:
    """Return the share of a batch that official's drop path really drops (`dinov2/layers/block.py:180`, Q33).

    It keeps a subset of `int(n_rows * (1 - rate))` rows and at least one, which in small batches drops more than
    asked for.

    Args:
        rate: `student.drop_path_rate`.
        n_rows: crops of one size in a batch.
    """
    return 1 - max(int(n_rows * (1 - rate)), 1) / n_rows


def _drop_path(cfg: DictConfig) -> Iterator[str]:
    rate = cfg.student.drop_path_rate
    batch_size = cfg.train.batch_size_per_gpu
    groups = {"global": 2 * batch_size, "local": cfg.crops.local_crops_number * batch_size}
    for name, n_rows in groups.items():
        if n_rows == 0 or rate == 0:
            continue
        effective = effective_drop_path(rate, n_rows)
        if effective - rate > DROP_PATH_SURPLUS:
            yield (
                f"student.drop_path_rate {rate} drops {effective:.0%} of {n_rows} {name} crops: official rounds the "
                "number of crops kept down (Q33); use a larger train.batch_size_per_gpu or a smaller rate"
            )


def _small_batch(cfg: DictConfig, world_size: int) -> Iterator[str]:
    """Compare the CLS tokens that a step balances over the prototypes with official's, 4096 over 65536 or 131072."""
    n_images = cfg.train.batch_size_per_gpu * world_size * cfg.accumulation_steps
    n_prototypes = cfg.dino.head_n_prototypes
    if n_prototypes <= 2 * n_images * PROTOTYPES_PER_TOKEN:
        return
    wanted = -(-n_prototypes // (2 * PROTOTYPES_PER_TOKEN))
    steps = -(-wanted // (cfg.train.batch_size_per_gpu * world_size))
    fewer = 2 * n_images * PROTOTYPES_PER_TOKEN
    sinkhorn = "" if cfg.train.centering == "sinkhorn_knopp" else ", and train.centering=sinkhorn_knopp"
    yield (
        f"{n_images} images per step are few for dino.head_n_prototypes = {n_prototypes}: the teacher's targets may "
        f"collapse. Set accumulation_steps={steps} or dino.head_n_prototypes={fewer} (and ibot.head_n_prototypes)"
        f"{sinkhorn}"
    )


def _data(cfg: DictConfig, world_size: int, n_images: int | None) -> Iterator[str]:
    if n_images is None:
        return
    n_unseen = n_images % world_size
    if cfg.quirks.sampler == "official" and n_unseen:
        yield (
            f"quirks.sampler=official never shows {n_unseen} of the {n_images} images: official cuts the data into "
            f"{world_size} equal shards (Q24)"
        )
    per_step = cfg.train.batch_size_per_gpu * world_size * cfg.accumulation_steps
    if cfg.accumulation_steps > 1 and per_step > n_images:
        yield (
            f"a step takes {per_step} images from a data set of {n_images}, so the same image comes more than once; "
            "lower accumulation_steps"
        )


def _masks(cfg: DictConfig) -> Iterator[str]:
    if cfg.ibot.loss_weight <= 0 and cfg.prototype.loss_weight <= 0:
        return
    side = cfg.crops.global_crops_size // cfg.student.patch_size
    smallest = min(cfg.ibot.mask_ratio_min_max)
    if side < SMALLEST_GRID:
        yield (
            f"a global crop has {side} x {side} patches: masks are blocks of at least {SMALLEST_BLOCK} patches, "
            "smaller than the grid in both directions (Q27), so many stay empty; use larger crops or smaller patches"
        )
    elif int(side**2 * smallest) < 1:
        yield (
            f"ibot.mask_ratio_min_max starts at {smallest}: less than one of a crop's {side**2} patches, so some "
            f"masked crops have no mask; start at {1 / side**2:.2g} or above"
        )


def _lengths(cfg: DictConfig) -> Iterator[str]:
    epochs, epoch_length = cfg.optim.epochs, cfg.train.OFFICIAL_EPOCH_LENGTH
    n_steps = epochs * epoch_length
    momentum = cfg.teacher.momentum_teacher
    if momentum == 1:
        yield "teacher.momentum_teacher is 1: the teacher stays as it was initialised"
    elif 1 / (1 - momentum) > n_steps / 2:
        yield (
            f"teacher.momentum_teacher {momentum} averages over {1 / (1 - momentum):.0f} steps, and the run has "
            f"{n_steps}: the teacher hardly leaves its start; use {max(0.0, 1 - 10 / n_steps):.2g}, or train longer"
        )
    if 2 * cfg.optim.warmup_epochs > epochs:
        yield (
            f"optim.warmup_epochs {cfg.optim.warmup_epochs} is more than half of optim.epochs {epochs}; "
            "official's is a tenth"
        )
    if cfg.teacher.warmup_teacher_temp_epochs > epochs:
        yield (
            f"teacher.warmup_teacher_temp_epochs {cfg.teacher.warmup_teacher_temp_epochs} is longer than the run's "
            f"{epochs} epochs: the temperature never reaches teacher.teacher_temp; official warms up for a third"
        )
    if cfg.optim.freeze_last_layer_epochs >= epochs:
        yield (
            f"optim.freeze_last_layer_epochs {cfg.optim.freeze_last_layer_epochs} freezes the heads' last layers for "
            f"the whole run of {epochs} epochs; set it to 0, or train longer"
        )
    if 0 < n_steps <= cfg.finetune.freeze_backbone_iterations:
        yield (
            f"finetune.freeze_backbone_iterations {cfg.finetune.freeze_backbone_iterations} freezes the backbone for "
            f"the whole run of {n_steps} iterations"
        )
