from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML, which OmegaConf brings along, has no type information
from omegaconf import DictConfig, OmegaConf

from port.config import (
    BUILT_IN,
    RECIPES,
    apply_scaling_rules,
    check_training_config,
    default_config,
    find_config_file,
    load_config,
    load_recipe,
)
from port.config_run import RunConfig


def test_sections_are_official_s() -> None:
    """The top level has the keys and sections of `RunConfig`, then official's sections in official's order."""
    assert list(default_config()) == [
        *(field.name for field in fields(RunConfig)),
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


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.epochs=many", "optim.epochs is 'many', expected a whole number such as 100"),
        ("optim.epochs=3.5", "optim.epochs is '3.5', expected a whole number such as 100"),
        ("optim.epochs=", "optim.epochs is '', expected a whole number such as 100"),
        ("optim.epochs=[", "optim.epochs is '[', expected a whole number such as 100"),
        ("compile=maybe", "compile is 'maybe', expected a true or false such as False"),
        ("ibot.mask_ratio_min_max=0.3", "is '0.3', expected a list of numbers such as [0.1, 0.5]"),
        ("optim=3", "optim is a section, expected keys inside it such as optim.epochs"),
        ("optim.epochs.first=3", "optim.epochs is not a section, expected a whole number"),
        ("optim.lr=${optim.nothing}", "optim.lr: Interpolation key 'optim.nothing' not found"),
        ("=3", "has no key, expected key=value"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error(override: str, expected: str) -> None:
    """Types are checked when merging, not when used, and the message says what would do."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_config(None, [override])


@pytest.mark.parametrize("text", ["no", "007", "a #b", "a: b", "[x", "", "1e3", "2024-01-01", "x=y:z"])
def test_text_is_taken_as_it_was_typed(text: str) -> None:
    """YAML would make False of `no`, 7 of `007` and `a` of `a #b`; a folder may have such a name."""
    assert load_config(None, [f"train.output_dir={text}"]).train.output_dir == text


def test_quoted_text_loses_its_quotes() -> None:
    """Quotes that a shell left in place are YAML's."""
    assert load_config(None, ['student.arch="vit_small"']).student.arch == "vit_small"


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 5e-4 as text; here it is a number, in files and overrides, as in official."""
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n  base_lr: 5e-4\n")
    assert load_config(file, ["optim.min_lr=1e-7"]).optim.base_lr == 0.0005
    assert load_config(file, ["optim.min_lr=1e-7"]).optim.min_lr == 1e-7


def test_later_overrides_win() -> None:
    """Also a section given as a whole."""
    cfg = load_config(None, ["optim.epochs=3", "optim={epochs: 4, warmup_epochs: 1}", "optim.warmup_epochs=2"])
    assert (cfg.optim.epochs, cfg.optim.warmup_epochs, cfg.optim.min_lr) == (4, 2, 1e-6)


def _masks(cfg: DictConfig) -> tuple[list[float], float]:
    return list(cfg.ibot.mask_ratio_min_max), cfg.ibot.mask_sample_probability


def test_the_document_s_flags_set_official_s_keys(tmp_path: Path) -> None:
    """mask_ratio_min, mask_ratio_max and mask_sample_probability, at the top level and under ibot."""
    file = tmp_path / "run.yaml"
    file.write_text("mask_sample_probability: 0.4\nibot:\n  mask_ratio_min: 0.2\n")
    assert _masks(load_config(file)) == ([0.2, 0.5], 0.4)
    assert _masks(load_config(file, ["mask_ratio_max=0.7", "ibot.mask_ratio_min=0.3"])) == ([0.3, 0.7], 0.4)


@pytest.mark.parametrize(("value", "weight"), [("true", 1.0), ("false", 0.0)])
def test_use_prototype_clustering_turns_the_prototype_loss_on(value: str, weight: float) -> None:
    """The document's switch is a weight here; off is the default."""
    assert load_config().prototype.loss_weight == 0.0
    cfg = load_config(None, ["prototype.loss_weight=0.5", f"use_prototype_clustering={value}"])
    assert cfg.prototype.loss_weight == weight


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mask_ratio_min=low", "mask_ratio_min is 'low', expected a number such as 0.1"),
        ("use_prototype_clustering=2", "use_prototype_clustering is 2, expected true or false"),
        ("optim.mask_ratio_min=0.1", "unknown configuration key 'optim.mask_ratio_min'"),
    ],
)
def test_the_document_s_flags_are_checked(override: str, expected: str) -> None:
    """Values have types, and a flag in a foreign section is no flag."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_config(None, [override])


def test_a_key_without_its_section_names_the_sections() -> None:
    """`epochs` is in one section, `loss_weight` in three."""
    with pytest.raises(ValueError, match=r"did you mean 'optim\.epochs'\?"):
        load_config(None, ["epochs=3"])
    with pytest.raises(ValueError, match=r"'dino\.loss_weight' or 'ibot\.loss_weight' or 'prototype\.loss_weight'"):
        load_config(None, ["loss_weight=3"])


def test_capitals_do_not_hide_a_key() -> None:
    """Official's `MODEL.WEIGHTS` is the only key in capitals."""
    with pytest.raises(ValueError, match=r"did you mean 'MODEL\.WEIGHTS'\?"):
        load_config(None, ["model.weights=x"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("- optim\n", "holds a list, expected sections such as 'optim:'"),
        ("optim\n", "holds only 'optim', expected sections"),
        ("optim:\n  epochs: 3\n  epochs: 4\n", ", line 3: not valid YAML: found duplicate key epochs"),
        (
            "optim:\n\tepochs: 3\n",
            ", line 2: not valid YAML: found character '\\t' that cannot start any token; YAML is",
        ),
        ("optim: [\n", ", line 2: not valid YAML"),
        ("---\noptim:\n---\noptim:\n", ", line 3: not valid YAML: but found another document"),
        (
            "# one\noptim:\n  epoch: 3\n",
            ", line 3: unknown configuration key 'optim.epoch'; did you mean 'optim.epochs'?",
        ),
        ("optim:\n  base_lr: 1.0\n  epochs: x\n", ", line 3: optim.epochs is 'x', expected a whole number such as 100"),
        ("optim: 3\n", ", line 1: optim is a section"),
        (
            "optim.epochs: 3\n",
            ", line 1: the key 'optim.epochs' has dots, which only overrides may have; in a file write",
        ),
        ("optim: &a\n  lr: *a\n", ", line 2: 'lr' holds itself"),
        ("[a, b]: 3\n", ", line 1: expected a key"),
        ("1: 3\n", ", line 1: unknown configuration key '1'"),
        ("optim:\n  lr: ${optim\n", "at input '${optim'; another key is meant by ${section.key}"),
        ("optim:\n  lr: ???\n", "Missing mandatory value"),
    ],
)
def test_a_bad_file_is_an_error_with_its_line(content: str, expected: str, tmp_path: Path) -> None:
    """Each message says which file, which line and what was expected."""
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        load_config(file)
    assert str(file) in str(caught.value) or "mandatory" in expected


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    """An image in place of a YAML file, and a folder."""
    file = tmp_path / "run.yaml"
    file.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match="is not a text file in UTF-8"):
        load_config(file)
    with pytest.raises(ValueError, match="is a folder, expected a YAML file"):
        load_config(tmp_path)


def test_sections_and_texts_may_be_empty(tmp_path: Path) -> None:
    """A section whose keys are all commented out, and a text without a value."""
    file = tmp_path / "run.yaml"
    file.write_text("optim:\n#  epochs: 3\nibot: {}\nMODEL:\n  WEIGHTS:\n")
    assert load_config(file) == default_config()


def test_a_missing_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that does not exist is named; a relative one is looked up in the working directory."""
    with pytest.raises(FileNotFoundError, match=r"none\.yaml' does not exist"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "run.yaml").write_text("optim:\n  epochs: 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_config("run.yaml").optim.epochs == 3


def test_official_s_default_file_loads(official_root: Path) -> None:
    """The file that official ships changes nothing: it is the defaults, registers (newer than the wheel) aside."""
    file = official_root / "dinov2" / "configs" / "ssl_default_config.yaml"
    assert load_config(file) == default_config()
    official = yaml.safe_load(file.read_text())
    ours = default_config()
    assert [key for section, keys in official.items() for key in keys if key not in ours[section]] == []


@pytest.mark.parametrize(
    ("base", "content", "changed"),
    [
        # dinov2/configs/train/vitl16_short.yaml, and what vitl14.yaml and vitg14.yaml change in ssl_default_config.
        ("vitl16_short", {"train": {"dataset_path": "ImageNet:split=TRAIN", "batch_size_per_gpu": 64}}, {}),
        ("vitl14", {"student": {"arch": "vit_large"}}, {"batch_size_per_gpu": 32}),
        ("vitg14", {"student": {"arch": "vit_giant2"}}, {"batch_size_per_gpu": 12}),
    ],
)
def test_official_s_recipes_load_as_files(
    base: str, content: dict[str, dict[str, object]], changed: dict[str, object]
) -> None:
    """A recipe's file holds official's keys only, and is what `load_recipe` gives."""
    file = find_config_file(base)
    given = yaml.safe_load(file.read_text())
    assert set(given) <= {"dino", "ibot", "train", "student", "teacher", "optim", "crops"}
    cfg = load_config(file)
    assert cfg == load_recipe(base)
    for section, values in content.items():
        assert {key: cfg[section][key] for key in values} == values
    assert {key: cfg.train[key] for key in changed} == changed


def test_built_in_names_are_files_and_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes, official's defaults and the demonstration have names; a file of that name wins."""
    assert BUILT_IN == ("vitl16_short", "vitl14", "vitg14", "ssl_default_config", "demo")
    assert load_config(find_config_file("ssl_default_config")) == default_config()
    assert find_config_file("vitl14.yaml") == find_config_file("vitl14")
    monkeypatch.chdir(tmp_path)
    Path("vitl14.yaml").write_text("")
    assert find_config_file("vitl14.yaml") == Path("vitl14.yaml")
    with pytest.raises(FileNotFoundError, match="did you mean 'vitg14'"):
        find_config_file("vitg15")


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
