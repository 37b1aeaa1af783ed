from __future__ import annotations

import pytest
from tiny_training import tiny_config

from port.checkpoint import Metadata, check_compatible
from port.checkpoint.metadata import architecture, as_container, config_differences


def compared(*overrides: str, before: tuple[str, ...] = (), world_size: int = 1) -> list[str]:
    """Return the warnings for a run that goes on with other values."""
    saved = Metadata(4, as_container(tiny_config(before)), world_size)
    return check_compatible(saved, tiny_config(overrides))


def test_json_round_trip() -> None:
    """What is written is read back, the configuration included."""
    saved = Metadata.of_run(7, tiny_config(), bad_files=1, wall_seconds=2.25)
    assert Metadata.from_json(saved.to_json()) == saved
    assert saved.config["optim"]["epochs"] == 5


def test_same_configuration_has_no_warnings() -> None:
    """Nothing to say where nothing changed."""
    assert compared() == []


@pytest.mark.parametrize(
    "override",
    [
        "train.output_dir=/elsewhere",
        "train.num_workers=0",
        "logging.period_iterations=1",
        "checkpoint.keep=9",
        "knn.k=5",
        "data.worker_start=spawn",
        "student.pretrained_weights=weights.pth",
        "evaluation.eval_period_iterations=7",
    ],
)
def test_harmless_keys_may_change(override: str) -> None:
    """Keys that change no number are passed over."""
    assert compared(override) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.seed=9", "train.seed was 0 and is 9"),
        ("train.batch_size_per_gpu=32", "train.batch_size_per_gpu was 64 and is 32"),
        ("accumulation_steps=2", "accumulation_steps was 1 and is 2"),
        ("crops.local_crops_number=4", "crops.local_crops_number was 2 and is 4"),
        ("ibot.mask_ratio_min_max=[0.2,0.5]", "ibot.mask_ratio_min_max was [0.1, 0.5] and is [0.2, 0.5]"),
        ("train.dataset_path=Folder:root=x", "train.dataset_path was 'ImageNet:split=TRAIN' and is 'Folder:root=x'"),
        ("optim.epochs=9", "optim.epochs was 5 and is 9"),
        ("precision=bf16", "precision was 'auto' and is 'bf16'"),
        ("student.layerscale=0.1", "student.layerscale was 0.5 and is 0.1"),
    ],
)
def test_keys_that_change_the_run_are_told(override: str, expected: str) -> None:
    """Each key whose change alters the numbers is named with both values."""
    assert compared(override) == [f"{expected}: the run goes on, but not as it would have"]


def test_key_that_the_checkpoint_lacks_is_told() -> None:
    """A key that came with a later version is named, with None for what was."""
    saved = as_container(tiny_config())
    del saved["train"]["seed"]
    (warning,) = check_compatible(Metadata(4, saved, 1), tiny_config())
    assert warning.startswith("train.seed was None and is 0")


def test_number_of_processes_is_told() -> None:
    """Another number of processes is named with both global batches."""
    (warning,) = compared(world_size=4)
    assert "the number of processes was 4 and is 1: the global batch was 256 and is 64 images" in warning


def test_another_number_of_images_is_told() -> None:
    """Images that came or went change the order of all; a checkpoint that does not say how many it had is silent."""
    saved = Metadata(4, as_container(tiny_config()), 1, images=10)
    assert check_compatible(saved, tiny_config(), 10) == []
    (warning,) = check_compatible(saved, tiny_config(), 12)
    assert warning.startswith("the data set had 10 images and has 12: the run goes on, but with the images in another")
    assert check_compatible(Metadata(4, as_container(tiny_config()), 1), tiny_config(), 12) == []


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("student.arch=vit_small", "student.arch: vit_test -> vit_small"),
        ("student.patch_size=8", "student.patch_size: 4 -> 8"),
        ("student.num_register_tokens=4", "student.num_register_tokens: 0 -> 4"),
        ("student.layerscale=0", "student.layerscale: above 0 -> 0"),
        ("student.block_chunks=2", "student.block_chunks: 0 -> 2"),
        ("dino.head_n_prototypes=16", "dino.head_n_prototypes: 12 -> 16"),
        ("ibot.separate_head=true", "ibot.separate_head: False -> True"),
        ("ibot.loss_weight=0", "ibot.loss_weight: above 0 -> 0"),
        ("prototype.loss_weight=1", "prototype.loss_weight: 0 -> above 0"),
        ("crops.global_crops_size=32", "crops.global_crops_size: 16 -> 32"),
    ],
)
def test_other_architecture_is_an_error(override: str, difference: str) -> None:
    """What decides the tensors' names and shapes cannot change."""
    with pytest.raises(ValueError, match="iteration 4 is of another architecture") as raised:
        compared(override)
    assert f"({difference})" in str(raised.value)


def test_keys_without_effect_are_no_architecture() -> None:
    """The iBOT head's size matters only where there is one, the bank's only with its loss."""
    shared = as_container(tiny_config(("ibot.head_n_prototypes=99", "prototype.n_prototypes=7")))
    assert config_differences(as_container(tiny_config()), shared) == []
    separate = ("ibot.separate_head=true", "prototype.loss_weight=1")
    larger = as_container(tiny_config((*separate, "ibot.head_n_prototypes=99", "prototype.n_prototypes=7")))
    assert config_differences(as_container(tiny_config(separate)), larger) == [
        "ibot.head_n_prototypes: 10 -> 99",
        "prototype.n_prototypes: 1024 -> 7",
    ]


def test_architecture_covers_both_heads() -> None:
    """Each head contributes its four sizes."""
    keys = architecture(as_container(tiny_config(("ibot.separate_head=true",)))).keys()
    assert sum(key.startswith("dino.head_") for key in keys) == 4
    assert sum(key.startswith("ibot.head_") for key in keys) == 4
