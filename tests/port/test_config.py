from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from port.config import RECIPES, apply_scaling_rules, check_training_config, default_config, load_config, load_recipe


def test_sections_are_official_s() -> None:
    """The top level has official's sections, in official's order, and the port's quirks after them."""
    assert list(default_config()) == [
        "MODEL",
        "compute_precision",
        "dino",
        "ibot",
        "train",
        "student",
        "teacher",
        "optim",
        "crops",
        "evaluation",
        "quirks",
    ]


def test_defaults_are_official_s() -> None:
    """Values that make the default recipe, read off ssl_default_config.yaml."""
    cfg = default_config()
    assert OmegaConf.to_container(cfg.dino) == {
        "loss_weight": 1.0,
        "head_n_prototypes": 65536,
        "head_bottleneck_dim": 256,
        "head_nlayers": 3,
        "head_hidden_dim": 2048,
        "koleo_loss_weight": 0.1,
    }
    assert cfg.ibot.mask_ratio_min_max == [0.1, 0.5]
    assert cfg.ibot.separate_head is False
    assert cfg.train.centering == "centering"
    assert (cfg.optim.layerwise_decay, cfg.optim.weight_decay_end) == (0.9, 0.4)
    assert (cfg.student.drop_path_rate, cfg.student.layerscale) == (0.3, 1e-5)
    assert cfg.crops.local_crops_size == 96


def test_only_the_student_s_heads_reduce_in_single_precision() -> None:
    """reduce_dtype is fp32 for the student's two heads and fp16 elsewhere."""
    precision = default_config().compute_precision
    reduced = {
        (network, module): precision[network][module].mixed_precision.reduce_dtype
        for network in ("student", "teacher")
        for module in ("backbone", "dino_head", "ibot_head")
    }
    fp32 = {key for key, dtype in reduced.items() if dtype == "fp32"}
    assert fp32 == {("student", "dino_head"), ("student", "ibot_head")}


def test_defaults_are_not_shared_between_configurations() -> None:
    """Changing one configuration's list leaves the next one alone."""
    default_config().ibot.mask_ratio_min_max[0] = 0.9
    assert default_config().ibot.mask_ratio_min_max == [0.1, 0.5]


@pytest.mark.parametrize(("name", "arch", "batch_size"), [("vitl14", "vit_large", 32), ("vitg14", "vit_giant2", 12)])
def test_the_long_recipes_differ_from_the_default(name: str, arch: str, batch_size: int) -> None:
    """Separate heads, Sinkhorn, SwiGLU, no layer-wise decay, 500 epochs."""
    cfg = load_recipe(name)
    assert cfg.student.arch == arch
    assert cfg.train.batch_size_per_gpu == batch_size
    assert (cfg.student.patch_size, cfg.student.ffn_layer, cfg.student.block_chunks) == (14, "swiglufused", 4)
    assert (cfg.ibot.separate_head, cfg.train.centering) == (True, "sinkhorn_knopp")
    assert (cfg.dino.head_n_prototypes, cfg.dino.head_bottleneck_dim) == (131072, 384)
    assert (cfg.ibot.head_n_prototypes, cfg.ibot.head_bottleneck_dim) == (131072, 256)
    assert (cfg.optim.epochs, cfg.optim.warmup_epochs, cfg.optim.base_lr) == (500, 80, 2e-4)
    assert (cfg.optim.layerwise_decay, cfg.optim.weight_decay_end) == (1.0, 0.2)
    assert cfg.teacher.momentum_teacher == 0.994
    assert cfg.crops.local_crops_size == 98


def test_the_short_recipe_is_the_default_in_four_chunks() -> None:
    """vitl16_short changes block_chunks and nothing else."""
    cfg = default_config()
    cfg.student.block_chunks = 4
    assert load_recipe("vitl16_short") == cfg


def test_every_recipe_loads_and_takes_overrides() -> None:
    """Overrides win over a recipe's values."""
    assert [load_recipe(name, ["optim.epochs=7"]).optim.epochs for name in RECIPES] == [7, 7, 7]


def test_an_unknown_recipe_names_the_known_ones() -> None:
    """The error lists what there is."""
    with pytest.raises(ValueError, match="vitl16_short, vitl14, vitg14"):
        load_recipe("vitb14")


def test_a_file_and_then_overrides_are_merged(tmp_path: Path) -> None:
    """File over defaults, overrides over file; what neither names stays."""
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  epochs: 3\n  base_lr: 1.0e-3\n")
    cfg = load_config(file, ["optim.epochs=5", "ibot.mask_ratio_min_max=[0.2,0.6]"])
    assert (cfg.optim.epochs, cfg.optim.base_lr, cfg.optim.min_lr) == (5, 1e-3, 1e-6)
    assert cfg.ibot.mask_ratio_min_max == [0.2, 0.6]


def test_a_file_may_refer_to_keys_that_it_does_not_set(tmp_path: Path) -> None:
    """Interpolations are resolved against the merged configuration."""
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  min_lr: ${optim.base_lr}\n")
    assert load_config(file).optim.min_lr == 0.004


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    """Nothing to merge is not an error."""
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert load_config(file) == default_config()


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("optim.epoch=3", "optim.epochs"),
        ("ibot.seperate_head=true", "ibot.separate_head"),
        ("optimizer.lr=1", "optim"),
        ("student.drop_path=0.1", "student.drop_path_rate"),
    ],
)
def test_an_unknown_key_names_the_nearest(override: str, nearest: str) -> None:
    """Q58: official accepts any key; a misspelt one stops here."""
    with pytest.raises(ValueError, match=f"did you mean '{nearest}"):
        load_config(None, [override])


def test_an_unknown_key_in_a_file_is_an_error(tmp_path: Path) -> None:
    """Files are checked like overrides."""
    file = tmp_path / "run.yaml"
    file.write_text("crops:\n  local_crop_number: 3\n")
    with pytest.raises(ValueError, match=r"did you mean 'crops\.local_crops_number'"):
        load_config(file)


@pytest.mark.parametrize(
    ("key", "migration"),
    [("token_mask_ratio", "0003"), ("ibot.token_mask_ratio", "0003"), ("clustering_mode", "0004")],
)
def test_a_removed_flag_names_its_migration(key: str, migration: str) -> None:
    """A flag of the old stack says what replaced it."""
    with pytest.raises(ValueError, match=rf"is gone: .*migration {migration}"):
        load_config(None, [f"{key}=0.3"])


def test_an_override_without_a_value_is_an_error() -> None:
    """`optim.epochs` alone would silently set None."""
    with pytest.raises(ValueError, match="no '=', expected key=value"):
        load_config(None, ["optim.epochs"])


def test_a_value_of_the_wrong_type_is_an_error() -> None:
    """Types are checked when merging, not when used."""
    with pytest.raises(ValidationError, match="'many'"):
        load_config(None, ["optim.epochs=many"])


def test_a_list_is_not_a_configuration(tmp_path: Path) -> None:
    """A YAML file must hold sections."""
    file = tmp_path / "list.yaml"
    file.write_text("- optim\n")
    with pytest.raises(ValueError, match="holds a list"):
        load_config(file)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A path that does not exist is reported as such."""
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(("images", "factor"), [(1024, 1.0), (4096, 2.0), (256, 0.5)])
def test_the_learning_rate_grows_with_the_root_of_the_batch(images: int, factor: float) -> None:
    """sqrt_wrt_1024: base_lr at 1024 images, twice that at four times as many."""
    cfg = default_config()
    assert apply_scaling_rules(cfg, images) is cfg
    assert cfg.optim.lr == 0.004 * factor


def test_another_scaling_rule_is_an_error() -> None:
    """There is one rule; official raises NotImplementedError without a word."""
    cfg = load_config(None, ["optim.scaling_rule=linear"])
    with pytest.raises(ValueError, match="'linear', expected 'sqrt_wrt_1024'"):
        apply_scaling_rules(cfg, 1024)


def test_an_unknown_quirk_value_is_refused() -> None:
    """A quirk is `official` or `corrected`; anything else is an error that says so."""
    cfg = load_config(overrides=["quirks.empty_mask_center=fixed"])
    with pytest.raises(ValueError, match=r"quirks\.empty_mask_center is 'fixed', expected official or corrected"):
        check_training_config(cfg)
