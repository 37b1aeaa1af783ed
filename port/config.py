"""Loads the configuration, whose keys `port/config_schema.py` documents.

Defaults are official's. A YAML file and `key=value` overrides are merged over them, in this order. A key that
does not exist is an error, where official accepts it silently (Q58).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from port.config_schema import Config, StudentConfig

__all__ = [
    "RECIPES",
    "Config",
    "StudentConfig",
    "apply_scaling_rules",
    "check_training_config",
    "default_config",
    "load_config",
    "load_recipe",
]

RECIPE_FOLDER = Path(__file__).parent / "configs"
CENTERINGS = ("centering", "sinkhorn_knopp")
QUIRK_VALUES = ("official", "corrected")
RECIPES = ("vitl16_short", "vitl14", "vitg14")
# Flags of stacks that predate official's approach, and the migration that replaces each.
REMOVED_KEYS = {
    "token_mask_ratio": "replaced by ibot.mask_ratio_min_max and ibot.mask_sample_probability (migration 0003)",
    "clustering_mode": "prototypes are clustered on masked patches only (migration 0004)",
}


def default_config() -> DictConfig:
    """Return official's defaults."""
    cfg = OmegaConf.structured(Config)
    assert isinstance(cfg, DictConfig)
    return cfg


def load_config(config_file: str | Path | None = None, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the defaults with a YAML file, then overrides, merged in (`dinov2/utils/config.py:40`).

    Args:
        config_file: YAML file; None for the defaults.
        overrides: `key=value`, the key with dots: `optim.epochs=10`.

    Raises:
        FileNotFoundError: `config_file` does not exist.
        ValueError: a key is not known, a value has the wrong type, or an override has no `=`.
    """
    cfg = default_config()
    known = set(_keys(cfg))
    for source in _sources(config_file, overrides):
        for key in _keys(source):
            _check_key(key, known)
        merged = OmegaConf.merge(cfg, source)
        assert isinstance(merged, DictConfig)
        cfg = merged
    return cfg


def load_recipe(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return one of official's training recipes (`dinov2/configs/train/`).

    Raises:
        ValueError: `name` is not in `RECIPES`, or as for `load_config`.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}, expected one of {', '.join(RECIPES)}; or give a YAML file")
    return load_config(RECIPE_FOLDER / f"{name}.yaml", overrides)


def apply_scaling_rules(cfg: DictConfig, global_batch_size: int) -> DictConfig:
    """Set `cfg.optim.lr` from `base_lr` and the batch, and return `cfg` (`dinov2/utils/config.py:21`).

    Args:
        cfg: changed in place.
        global_batch_size: images per optimizer step on all ranks.

    Raises:
        ValueError: the scaling rule is not known.
    """
    if cfg.optim.scaling_rule != "sqrt_wrt_1024":
        raise ValueError(f"optim.scaling_rule is {cfg.optim.scaling_rule!r}, expected 'sqrt_wrt_1024', the only one")
    cfg.optim.lr = cfg.optim.base_lr * math.sqrt(global_batch_size / 1024.0)
    return cfg


def check_training_config(cfg: DictConfig) -> None:
    """Check what official code only finds out later, or not at all.

    Raises:
        ValueError: the configuration asks for what the training objective cannot do.
    """
    if cfg.dino.loss_weight <= 0:
        raise ValueError(
            f"dino.loss_weight is {cfg.dino.loss_weight}, expected > 0: official's heads and local loss need "
            "the DINO loss (Q20); use a small weight to train with iBOT nearly alone"
        )
    if cfg.train.centering not in CENTERINGS:
        raise ValueError(f"train.centering is {cfg.train.centering!r}, expected {' or '.join(CENTERINGS)}")
    for name, value in cfg.quirks.items():
        if value not in QUIRK_VALUES:
            raise ValueError(f"quirks.{name} is {value!r}, expected {' or '.join(QUIRK_VALUES)}")
    if cfg.ibot.loss_weight > 0 and not (max(cfg.ibot.mask_ratio_min_max) > 0 and cfg.ibot.mask_sample_probability > 0):
        raise ValueError(
            f"ibot.mask_ratio_min_max is {list(cfg.ibot.mask_ratio_min_max)} and ibot.mask_sample_probability "
            f"{cfg.ibot.mask_sample_probability}, expected both above 0; set ibot.loss_weight=0 for no iBOT"
        )


def _sources(config_file: str | Path | None, overrides: Sequence[str]) -> Iterator[DictConfig]:
    if config_file is not None:
        loaded = OmegaConf.load(config_file)
        if not isinstance(loaded, DictConfig):
            raise ValueError(f"{config_file} holds a list, expected sections such as 'optim:'")
        yield loaded
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"override {override!r} has no '=', expected key=value such as optim.epochs=10")
    yield OmegaConf.from_dotlist(list(overrides))


def _keys(cfg: DictConfig) -> Iterator[str]:
    """Yield every key with dots, sections included."""
    # Interpolations stay as they are: they may name keys that only the merged configuration has.
    yield from _dotted(OmegaConf.to_container(cfg, resolve=False), "")


def _dotted(node: object, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield f"{prefix}{name}"
            yield from _dotted(child, f"{prefix}{name}.")


def _check_key(key: str, known: set[str]) -> None:
    """Raise ValueError for a key that is not known, with what to write instead."""
    if key in known:
        return
    leaf = key.rpartition(".")[2]
    if leaf in REMOVED_KEYS:
        raise ValueError(f"configuration key {key!r} is gone: {REMOVED_KEYS[leaf]}")
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown configuration key {key!r}; did you mean {nearest!r}?")
