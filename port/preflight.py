"""What a run must satisfy before its first step, and what is legal but will surprise.

Nothing here reads images or builds a model; the checks take a configuration and a few numbers.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from port.config import check_training_config
from port.config_keys import nearest
from port.data.augmentations import SMALLEST_CROP
from port.preflight_rules import INTERVALS, PAIRS, WORDS, Interval
from port.preflight_warnings import training_warnings

__all__ = ["check_before_training", "check_output_dir"]


def check_before_training(
    cfg: DictConfig, world_size: int, n_images: int | None = None, device_type: str | None = None
) -> list[str]:
    """Check a configuration before anything expensive starts.

    Args:
        cfg: from `port.config.load_config`.
        world_size: number of ranks.
        n_images: images in the data set; None where it is not known yet.
        device_type: `cpu`, `cuda` or `mps`; None for what `cfg.device` says.

    Returns:
        Warnings: settings that are legal and will surprise.

    Raises:
        ValueError: the run cannot work. The message holds a line for each reason.
    """
    problems = [*_wrong_words(cfg), *_out_of_range(cfg), *_wrong_pairs(cfg)]
    # What follows computes with these values, so it needs them to be right.
    if not problems:
        problems += [*_crops(cfg), *_masks(cfg), *_schedules(cfg), *_batch(cfg, world_size, n_images), *_knn(cfg)]
        problems += _precision(cfg, device_type)
    if problems:
        raise ValueError("\n".join(problems))
    check_training_config(cfg)
    return list(training_warnings(cfg, world_size, n_images))


def check_output_dir(path: str | Path, needed_bytes: int = 0) -> None:
    """Make the output folder and check that a file can be written there.

    Args:
        path: the folder.
        needed_bytes: size of what the run will write at least, such as one checkpoint.

    Raises:
        OSError: the folder cannot be made or written to, or its disk is too full.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # A killed process leaves nothing: this file has no name, or loses it at once.
        with tempfile.TemporaryFile(dir=path, prefix=".write-test-") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(path).free
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"the output folder {path} is a file, or lies below one; give another folder"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"the disk of the output folder {path} is full; free some space or give another") from None
        raise PermissionError(
            f"the output folder {path} cannot be written to ({error.strerror}); give another with --output-dir"
        ) from None
    if free < needed_bytes:
        raise OSError(
            f"the disk of the output folder {path} has {_gigabytes(free)} free, but one checkpoint needs "
            f"{_gigabytes(needed_bytes)}; free some space or give another folder with --output-dir"
        )


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g} GB"


def _wrong_words(cfg: DictConfig) -> Iterator[str]:
    for key, words in WORDS.items():
        value = OmegaConf.select(cfg, key)
        if value not in words:
            yield f"{key} is {value!r}, expected one of {', '.join(words)}{nearest(value, words)}"


def _out_of_range(cfg: DictConfig) -> Iterator[str]:
    for key, interval in INTERVALS.items():
        value = OmegaConf.select(cfg, key)
        if value not in interval:
            yield f"{key} is {value}, expected {interval}{interval.why}"
    if not cfg.train.dataset_path.strip():
        yield "train.dataset_path is empty, expected a folder of images, or such as ImageNet:split=TRAIN:root=…"


def _wrong_pairs(cfg: DictConfig) -> Iterator[str]:
    """Check lists of a smallest and a largest value."""
    share = Interval(0, 1)
    for key, used_if in PAIRS.items():
        values = list(OmegaConf.select(cfg, key))
        if len(values) != 2:
            yield f"{key} is {values}, expected two numbers, the smallest and the largest"
        elif any(value not in share for value in values) or values[0] > values[1]:
            yield f"{key} is {values}, expected 0 <= smallest <= largest <= 1"
        elif used_if is not None and OmegaConf.select(cfg, used_if) > 0 and values[0] == 0:
            yield f"{key} is {values}, expected the smallest above 0: a crop needs an area"


def _crops(cfg: DictConfig) -> Iterator[str]:
    patch = cfg.student.patch_size
    keys = ["crops.global_crops_size"]
    if cfg.crops.local_crops_number > 0:
        keys.append("crops.local_crops_size")
    if cfg.knn.train_dataset and cfg.knn.crop_size:
        keys.append("knn.crop_size")
    for key in keys:
        size = OmegaConf.select(cfg, key)
        if size < SMALLEST_CROP and key.startswith("crops."):
            least = math.ceil(SMALLEST_CROP / patch) * patch
            yield (
                f"{key} is {size}, expected at least {least}, the smallest multiple of student.patch_size = {patch} "
                f"with the {SMALLEST_CROP} pixels that the blur needs"
            )
        elif size < patch or size % patch:
            below = size // patch * patch
            values = f"{below} or {below + patch}" if below else f"{patch}"
            yield f"{key} is {size}, expected a multiple of student.patch_size = {patch}, such as {values}"


def _masks(cfg: DictConfig) -> Iterator[str]:
    """Refuse settings under which no patch is ever masked although a loss needs masked patches."""
    if cfg.ibot.loss_weight <= 0 and cfg.prototype.loss_weight <= 0:
        return
    largest = max(cfg.ibot.mask_ratio_min_max)
    probability = cfg.ibot.mask_sample_probability
    n_crops = 2 * cfg.train.batch_size_per_gpu
    n_patches = (cfg.crops.global_crops_size // cfg.student.patch_size) ** 2
    if n_patches == 0:
        return  # `_crops` says so
    remedy = "or set ibot.loss_weight=0 (and prototype.loss_weight=0) to train without masks"
    if largest == 0 or probability == 0:
        yield (
            f"ibot.mask_ratio_min_max is {list(cfg.ibot.mask_ratio_min_max)} and ibot.mask_sample_probability "
            f"{probability}, so nothing is ever masked; expected both above 0, {remedy}"
        )
    elif int(n_crops * probability) == 0:
        yield (
            f"ibot.mask_sample_probability is {probability}, which masks int({n_crops} * {probability}) = 0 of the "
            f"{n_crops} global crops of a batch; expected at least {1 / n_crops:.3g}, a larger "
            f"train.batch_size_per_gpu, {remedy}"
        )
    elif int(n_patches * largest) == 0:
        yield (
            f"ibot.mask_ratio_min_max is {list(cfg.ibot.mask_ratio_min_max)}, which masks none of a crop's {n_patches} "
            f"patches; expected a largest ratio of at least {1 / n_patches:.3g}, {remedy}"
        )


def _schedules(cfg: DictConfig) -> Iterator[str]:
    epochs = cfg.optim.epochs
    if cfg.optim.warmup_epochs > epochs:
        yield (
            f"optim.warmup_epochs is {cfg.optim.warmup_epochs}, expected at most optim.epochs = {epochs}; "
            f"official warms up for a tenth of the run: {math.ceil(epochs / 10)}"
        )
    if cfg.prototype.loss_weight > 0 and cfg.prototype.warmup_epochs > epochs:
        yield f"prototype.warmup_epochs is {cfg.prototype.warmup_epochs}, expected at most optim.epochs = {epochs}"


def _batch(cfg: DictConfig, world_size: int, n_images: int | None) -> Iterator[str]:
    batch_size = cfg.train.batch_size_per_gpu
    if batch_size == 1 and cfg.dino.koleo_loss_weight > 0:
        yield (
            "train.batch_size_per_gpu is 1 and dino.koleo_loss_weight above 0: KoLeo takes each image's nearest "
            "neighbour among the images of one rank's batch, and there is none (official's loss is inf or NaN in half "
            "precision, Q2); expected at least 2 images, or dino.koleo_loss_weight=0. accumulation_steps does not help"
        )
    if n_images is None:
        return
    at_once = batch_size * world_size
    if n_images == 0:
        yield f"train.dataset_path {cfg.train.dataset_path!r} holds no image"
    elif n_images == 1:
        yield (
            f"train.dataset_path {cfg.train.dataset_path!r} holds one image; "
            "expected more: the losses tell images from each other"
        )
    elif n_images < at_once:
        fitting = n_images // world_size
        remedy = f"set train.batch_size_per_gpu={fitting}" if fitting > 1 else "start fewer ranks"
        yield (
            f"a batch has {batch_size} images on {world_size} rank{'s' * (world_size > 1)} = {at_once}, but the data "
            f"set has only {n_images}: an image would be its own neighbour; {remedy}"
        )


def _knn(cfg: DictConfig) -> Iterator[str]:
    if bool(cfg.knn.train_dataset) != bool(cfg.knn.test_dataset):
        there, lacking = ("train", "test") if cfg.knn.train_dataset else ("test", "train")
        yield f"knn.{lacking}_dataset is empty and knn.{there}_dataset is not; expected both, or neither for no k-NN"
    resize, crop = cfg.knn.resize_size, cfg.knn.crop_size or cfg.crops.global_crops_size
    if cfg.knn.train_dataset and 0 < resize < crop:
        yield f"knn.resize_size is {resize}, expected at least the crop's {crop} pixels"


def _precision(cfg: DictConfig, device_type: str | None) -> Iterator[str]:
    device = device_type or cfg.device
    if cfg.precision == "fp16" and device in ("cpu", "mps"):
        yield f"precision is 'fp16' on {device}, expected fp32 or bf16 there: fp16 needs a CUDA device"
