from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from omegaconf import DictConfig, OmegaConf

from port.config import BUILT_IN, RECIPES, find_config_file, load_config
from port.config_docs import describe_keys
from port.preflight import check_before_training, check_output_dir
from port.preflight_rules import INTERVALS, PAIRS, WORDS, Interval
from port.preflight_warnings import effective_drop_path

# What the expected values below are computed from; the demonstration itself may change.
_FIXED = (
    "train.dataset_path=skimage:split=train:size=96:grey=true",
    "train.batch_size_per_gpu=32",
    "train.OFFICIAL_EPOCH_LENGTH=10",
    "optim.epochs=12",
    "student.patch_size=8",
    "teacher.momentum_teacher=0.98",
)


def _demo(*overrides: str) -> DictConfig:
    return load_config(find_config_file("demo"), (*_FIXED, *overrides))


def _check(overrides: Sequence[str], world_size: int = 1, n_images: int | None = 10_000) -> list[str]:
    return check_before_training(_demo(*overrides), world_size, n_images)


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_ships_passes(name: str) -> None:
    """Official's recipes and defaults, and the demonstration, on 1 and 96 ranks."""
    cfg = load_config(find_config_file(name))
    check_before_training(cfg, 1, 1_000_000)
    assert check_before_training(cfg, 96, 1_000_000) == []


def test_the_demonstration_has_no_warning() -> None:
    """What users see first is clean."""
    assert check_before_training(load_config(find_config_file("demo"), ()), 1, 500) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["mask_ratio_min=0.6"], "ibot.mask_ratio_min_max is [0.6, 0.5], expected 0 <= smallest <= largest <= 1"),
        (["mask_ratio_min=-0.1"], "is [-0.1, 0.5], expected 0 <= smallest"),
        (["mask_ratio_max=1.1"], "is [0.1, 1.1], expected 0 <= smallest"),
        (["mask_ratio_max=.nan"], "is [0.1, nan], expected 0 <= smallest"),
        (["ibot.mask_ratio_min_max=[0,0]"], "nothing is ever masked; expected both above 0"),
        (["ibot.mask_ratio_min_max=[0.1]"], "is [0.1], expected two numbers"),
        (["ibot.mask_ratio_min_max=[]"], "is [], expected two numbers"),
        (["mask_sample_probability=0"], "nothing is ever masked"),
        (["mask_sample_probability=1.5"], "ibot.mask_sample_probability is 1.5, expected 0 <= value <= 1"),
        (["mask_sample_probability=-0.5"], "ibot.mask_sample_probability is -0.5"),
        (
            ["mask_sample_probability=0.01"],
            "int(64 * 0.01) = 0 of the 64 global crops of a batch; expected at least 0.0156",
        ),
        (
            ["ibot.mask_ratio_min_max=[0.001,0.005]"],
            "masks none of a crop's 144 patches; expected a largest ratio of at",
        ),
        (
            ["crops.global_crops_size=100"],
            "crops.global_crops_size is 100, expected a multiple of student.patch_size = 8",
        ),
        (
            ["crops.local_crops_size=50"],
            "crops.local_crops_size is 50, expected a multiple of student.patch_size = 8, such as 48",
        ),
        (["crops.local_crops_size=6"], "is 6, expected a multiple of student.patch_size = 8, such as 8"),
        (["crops.global_crops_size=6"], "is 6, expected a multiple of student.patch_size = 8, such as 8"),
        (["crops.local_crops_size=4"], "crops.local_crops_size is 4, expected at least 8, the smallest multiple of"),
        (["crops.global_crops_size=3"], "crops.global_crops_size is 3, expected at least 8"),
        (["crops.local_crops_size=3", "student.patch_size=3"], "is 3, expected at least 6, the smallest multiple"),
        (["knn.crop_size=50"], "knn.crop_size is 50, expected a multiple"),
        (["knn.crop_size=96", "knn.resize_size=64"], "knn.resize_size is 64, expected at least the crop's 96 pixels"),
        (["knn.test_dataset="], "knn.test_dataset is empty and knn.train_dataset is not"),
        (["knn.train_dataset="], "knn.train_dataset is empty and knn.test_dataset is not"),
        (["train.batch_size_per_gpu=0"], "train.batch_size_per_gpu is 0, expected at least 1"),
        (["train.batch_size_per_gpu=1"], "official's loss is inf or NaN"),
        (["dino.head_n_prototypes=1"], "expected at least 2: with one prototype every target is the same"),
        (["dino.loss_weight=0"], "dino.loss_weight is 0.0, expected a number above 0: official's heads"),
        (["optim.warmup_epochs=13"], "optim.warmup_epochs is 13, expected at most optim.epochs = 12"),
        (
            ["use_prototype_clustering=true", "prototype.warmup_epochs=20"],
            "prototype.warmup_epochs is 20, expected at most",
        ),
        (["optim.epochs=0"], "optim.epochs is 0, expected at least 1"),
        (["optim.base_lr=.nan"], "optim.base_lr is nan, expected at least 0"),
        (["optim.base_lr=.inf"], "optim.base_lr is inf, expected at least 0"),
        (["optim.adamw_beta2=1"], "optim.adamw_beta2 is 1.0, expected 0 <= value < 1"),
        (["teacher.momentum_teacher=1.01"], "teacher.momentum_teacher is 1.01, expected 0 <= value <= 1"),
        (["teacher.teacher_temp=0"], "teacher.teacher_temp is 0.0, expected a number above 0"),
        (["student.drop_path_rate=1"], "student.drop_path_rate is 1.0, expected 0 <= value < 1"),
        (["accumulation_steps=0"], "accumulation_steps is 0, expected at least 1"),
        (["train.num_workers=-1"], "train.num_workers is -1, expected at least 0"),
        (["crops.global_crops_scale=[0.5,0.3]"], "crops.global_crops_scale is [0.5, 0.3], expected 0 <= smallest"),
        (["crops.local_crops_scale=[0,0.3]"], "expected the smallest above 0: a crop needs an area"),
        (["train.dataset_path= "], "train.dataset_path is empty, expected a folder of images"),
        (["device=cud"], "device is 'cud', expected one of auto, cpu, cuda, mps; did you mean 'cuda'?"),
        (
            ["precision=bfloat16"],
            "precision is 'bfloat16', expected one of auto, fp32, bf16, fp16; did you mean 'bf16'?",
        ),
        (["parallel=fsdp2"], "did you mean 'fsdp'?"),
        (["train.centering=sinkhorn"], "did you mean 'sinkhorn_knopp'?"),
        (["quirks.blur=fixed"], "quirks.blur is 'fixed', expected one of official, corrected"),
        (["precision=fp16", "device=cpu"], "precision is 'fp16' on cpu, expected fp32 or bf16 there"),
    ],
)
def test_what_cannot_work_is_an_error(overrides: list[str], expected: str) -> None:
    """Each names key, value, expectation and, where there is one, the remedy."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        _check(overrides)


def test_all_problems_are_reported_at_once() -> None:
    """One line each, so that a user needs one try."""
    with pytest.raises(ValueError, match="epochs") as caught:
        _check(["optim.epochs=0", "device=x", "mask_ratio_max=2"])
    assert [line.split(" is ")[0] for line in str(caught.value).splitlines()] == [
        "device",
        "optim.epochs",
        "ibot.mask_ratio_min_max",
    ]


@pytest.mark.parametrize(
    ("world_size", "n_images", "expected"),
    [
        (1, 0, "'skimage:split=train:size=96:grey=true' holds no image"),
        (1, 1, "holds one image"),
        (1, 31, "a batch has 32 images on 1 rank = 32, but the data set has only 31"),
        (
            4,
            100,
            "32 images on 4 ranks = 128, but the data set has only 100: an image would be its own neighbour; set train",
        ),
        (4, 100, "train.batch_size_per_gpu=25"),
        (8, 9, "start fewer ranks"),
    ],
)
def test_too_few_images_are_an_error(world_size: int, n_images: int, expected: str) -> None:
    """A batch larger than the data, one image, none; the number of images is the caller's."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        _check([], world_size, n_images)


def test_as_many_images_as_the_batch_are_enough() -> None:
    """The boundary."""
    assert _check([], 2, 64) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.batch_size_per_gpu=1", "dino.koleo_loss_weight=0"],
        ["crops.local_crops_number=0", "crops.local_crops_size=50", "crops.local_crops_scale=[0,1]"],
        ["ibot.loss_weight=0", "ibot.mask_ratio_min_max=[0,0]", "mask_sample_probability=0"],
        ["precision=fp16", "device=cuda"],
        ["knn.train_dataset=", "knn.test_dataset=", "knn.crop_size=50"],
        ["prototype.warmup_epochs=20"],
        ["optim.layerwise_decay=1", "optim.clip_grad=0", "student.layerscale=0", "train.num_workers=0"],
    ],
)
def test_what_is_unusual_but_works_passes(overrides: list[str]) -> None:
    """Checks look only at what the run uses."""
    check_before_training(_demo(*overrides), 1, 10_000)
    assert OmegaConf.is_config(_demo(*overrides))


def test_the_device_that_was_found_counts() -> None:
    """device=auto on a machine without a GPU."""
    cfg = _demo("precision=fp16")
    assert check_before_training(cfg, 1, device_type="cuda") == []
    with pytest.raises(ValueError, match="'fp16' on cpu"):
        check_before_training(cfg, 1, device_type="cpu")


# Q33: rates measured on official code at b crops.
@pytest.mark.parametrize(
    ("rate", "n_rows", "effective"),
    [(0.3, 2, 0.5), (0.3, 4, 0.5), (0.3, 8, 0.375), (0.3, 16, 0.3125), (0.4, 8, 0.5), (0.3, 1, 0.0), (0.0, 7, 0.0)],
)
def test_drop_path_drops_more_in_small_batches(rate: float, n_rows: int, effective: float) -> None:
    """Q33: the number of rows kept is rounded down."""
    assert effective_drop_path(rate, n_rows) == pytest.approx(effective)


class Surprise(NamedTuple):
    """Settings and what is said about them."""

    overrides: list[str]
    expected: str
    world_size: int = 1
    n_images: int = 10_000


@pytest.mark.parametrize(
    "surprise",
    [
        Surprise(["student.drop_path_rate=0.3", "train.batch_size_per_gpu=2"], "drops 50% of 4 global crops"),
        Surprise(
            ["student.drop_path_rate=0.3", "train.batch_size_per_gpu=2", "crops.local_crops_number=1"], "of 2 local"
        ),
        Surprise(["quirks.sampler=official"], "never shows 1 of the 10000 images", world_size=3),
        Surprise(["accumulation_steps=8"], "a step takes 256 images from a data set of 200", n_images=200),
        Surprise(["crops.global_crops_size=24"], "a global crop has 3 x 3 patches"),
        Surprise(
            ["mask_ratio_min=0.001"], "less than one of a crop's 144 patches, so some masked crops have no mask; start"
        ),
        Surprise(["dino.head_n_prototypes=65536"], "32 images per step are few for dino.head_n_prototypes = 65536"),
        Surprise(["dino.head_n_prototypes=65536"], "Set accumulation_steps=16 or dino.head_n_prototypes=4096 "),
        Surprise(["dino.head_n_prototypes=65536"], "train.centering=sinkhorn_knopp"),
        Surprise(["teacher.momentum_teacher=0.996"], "averages over 250 steps, and the run has 120"),
        Surprise(["teacher.momentum_teacher=1"], "the teacher stays as it was initialised"),
        Surprise(["optim.warmup_epochs=7"], "more than half of optim.epochs 12"),
        Surprise(["teacher.warmup_teacher_temp_epochs=30"], "the temperature never reaches teacher.teacher_temp"),
        Surprise(["optim.freeze_last_layer_epochs=12"], "freezes the heads' last layers for the whole run"),
        Surprise(
            ["finetune.freeze_backbone_iterations=120"], "freezes the backbone for the whole run of 120 iterations"
        ),
    ],
    ids=lambda surprise: " ".join(surprise.overrides),
)
def test_what_surprises_is_a_warning(surprise: Surprise) -> None:
    """Legal settings, returned and not raised."""
    warnings = _check(surprise.overrides, surprise.world_size, surprise.n_images)
    assert len([warning for warning in warnings if surprise.expected in warning]) == 1


def test_following_a_warning_ends_it() -> None:
    """The remedies that a warning names are remedies."""
    few = ["dino.head_n_prototypes=65536", "train.centering=sinkhorn_knopp"]
    (warning,) = _check(few)
    assert "sinkhorn" not in warning
    remedies = re.findall(r"accumulation_steps=\d+|dino\.head_n_prototypes=\d+", warning)
    assert len(remedies) == 2
    assert [_check([*few, remedy]) for remedy in remedies] == [[], []]
    (warning,) = _check(["teacher.momentum_teacher=0.996"])
    (value,) = re.findall(r"use ([\d.]+),", warning)
    assert _check([f"teacher.momentum_teacher={value}"]) == []


def test_official_s_own_runs_have_no_warning() -> None:
    """32 GPUs for vitl16_short, 96 for vitl14, as official's README starts them."""
    for name, world_size in zip(RECIPES, (32, 96, 96), strict=True):
        assert check_before_training(load_config(find_config_file(name)), world_size, 1_281_167) == []


def test_the_rules_name_keys_that_exist() -> None:
    """And numbers without a rule are few and known."""
    docs = {doc.key: doc for doc in describe_keys()}
    rules = {*INTERVALS, *WORDS, *PAIRS}
    assert rules - set(docs) == set()
    numbers = {key for key, doc in docs.items() if doc.type in ("number", "whole number")}
    free = {"train.seed", "train.saveckp_freq", "optim.lr", "student.interpolate_offset"}
    assert numbers - rules - free == set()
    assert all(OmegaConf.select(load_config(), key) in words for key, words in WORDS.items())


def test_intervals_say_what_they_hold() -> None:
    """Open and closed ends, and no NaN."""
    half_open = Interval(0, 1, high_open=True)
    assert [value in half_open for value in (-0.1, 0.0, 0.5, 1.0, float("nan"))] == [False, True, True, False, False]
    assert str(half_open) == "0 <= value < 1"
    assert [value in Interval(0, low_open=True) for value in (0, 1e-9, float("inf"))] == [False, True, False]
    assert (str(Interval(0, low_open=True)), str(Interval(1))) == ("a number above 0", "at least 1")


def test_the_output_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    """Parents too; the file that was written for the check is gone; again is fine."""
    for _ in range(2):
        check_output_dir(tmp_path / "a" / "b", needed_bytes=1)
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_is_no_output_folder(tmp_path: Path) -> None:
    """Nor is a place below one."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="is a file, or lies below one; give another folder"):
            check_output_dir(path)


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        (errno.EROFS, PermissionError, "cannot be written to (Read-only file system); give another with --output-dir"),
        (errno.EACCES, PermissionError, "cannot be written to (Permission denied)"),
        (errno.ENOSPC, OSError, "is full; free some space"),
        (errno.EDQUOT, OSError, "is full; free some space"),
    ],
)
def test_a_folder_that_takes_no_file_is_an_error(
    code: int, kind: type[OSError], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found when a file reaches the disk, which is when a full disk shows. Tests may run as root, so it is feigned."""

    def refuse(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind, match=re.escape(expected)):
        check_output_dir(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_for_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    """Both sizes are named."""
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(OSError, match=r"has .* GB free, but one checkpoint needs .* GB"):
        check_output_dir(tmp_path, needed_bytes=free * 10)
    check_output_dir(tmp_path, needed_bytes=0)
