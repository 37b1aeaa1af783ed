"""Loads the configuration, whose keys `port/config_schema.py` and `port/config_run.py` document.

Defaults are official's. A YAML file and `key=value` overrides are merged over them, in this order. A key that
does not exist is an error, where official accepts it silently (Q58).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from port.config_keys import REMOVED_KEYS, find_alias, flat_keys, nearest, type_in_words, unknown_key
from port.config_schema import Config, StudentConfig
from port.config_sources import Setting, parse_override, read_yaml
from port.kernels import is_fast

__all__ = [
    "BUILT_IN",
    "RECIPES",
    "REMOVED_KEYS",
    "Config",
    "StudentConfig",
    "apply_scaling_rules",
    "check_training_config",
    "default_config",
    "find_config_file",
    "load_config",
    "load_recipe",
]

RECIPE_FOLDER = Path(__file__).parent / "configs"
CENTERINGS = ("centering", "sinkhorn_knopp")
QUIRK_VALUES = ("official", "corrected")
RECIPES = ("vitl16_short", "vitl14", "vitg14")
"""Official's training recipes."""
BUILT_IN = (*RECIPES, "ssl_default_config", "demo")
"""The configurations that have a name: official's recipes, official's defaults, and the demonstration."""


def default_config() -> DictConfig:
    """Return official's defaults."""
    cfg = OmegaConf.structured(Config)
    assert isinstance(cfg, DictConfig)
    return cfg


def load_config(config_file: str | Path | None = None, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the defaults with a YAML file, then overrides, merged in (`dinov2/utils/config.py:40`).

    Besides the schema's keys, both may use the names in `port.config_keys.ALIASES`.

    Args:
        config_file: YAML file; None for the defaults.
        overrides: `key=value`, the key with dots: `optim.epochs=10`.

    Raises:
        FileNotFoundError: `config_file` does not exist.
        ValueError: a key is not known, a value has the wrong type, an override has no `=`, or the file is not
            YAML. The message names the file's line.
    """
    cfg = default_config()
    known = dict(flat_keys(_container(cfg)))
    settings = [] if config_file is None else read_yaml(Path(config_file))
    for setting in [*settings, *map(parse_override, overrides)]:
        _apply(cfg, setting, known)
    _check_interpolations(cfg)
    return cfg


def find_config_file(name: str) -> Path:
    """Return the YAML file that `name` means: a path, or one of `BUILT_IN`, with or without `.yaml`.

    Raises:
        FileNotFoundError: neither a file nor a built-in name.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    built_in = name.removesuffix(".yaml")
    if built_in in BUILT_IN:
        return RECIPE_FOLDER / f"{built_in}.yaml"
    raise FileNotFoundError(
        f"the configuration file {name!r} does not exist, nor is it one of {', '.join(BUILT_IN)}"
        f"{nearest(built_in, BUILT_IN)}"
    )


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
    is_fast(cfg.kernels)
    for name, value in cfg.quirks.items():
        if value not in QUIRK_VALUES:
            raise ValueError(f"quirks.{name} is {value!r}, expected {' or '.join(QUIRK_VALUES)}")
    if cfg.ibot.loss_weight > 0 and not (max(cfg.ibot.mask_ratio_min_max) > 0 and cfg.ibot.mask_sample_probability > 0):
        raise ValueError(
            f"ibot.mask_ratio_min_max is {list(cfg.ibot.mask_ratio_min_max)} and ibot.mask_sample_probability "
            f"{cfg.ibot.mask_sample_probability}, expected both above 0; set ibot.loss_weight=0 for no iBOT"
        )


def _container(cfg: DictConfig) -> Mapping[Any, object]:
    content = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(content, Mapping)
    return content


def _apply(cfg: DictConfig, setting: Setting, known: Mapping[str, object]) -> None:
    """Put a setting into `cfg`.

    Args:
        cfg: changed in place.
        setting: a leaf, a section as a mapping, or an alias.
        known: all keys with their defaults, a section's being a mapping.

    Raises:
        ValueError: the key is not known, or the value does not suit it.
    """
    key, value = setting.key, setting.value
    if key not in known:
        _apply_alias(cfg, setting, known)
        return
    default = known[key]
    if isinstance(default, Mapping):
        if not isinstance(value, Mapping) and value is not None:
            raise ValueError(
                f"{setting.where}: {key} is a section, expected keys inside it such as {key}.{next(iter(default))}"
            )
        for name, child in (value or {}).items():
            _apply(cfg, replace(setting, key=f"{key}.{name}", value=child, raw=None), known)
        return
    _update(cfg, key, _as_typed(setting) if isinstance(default, str) else value, setting, default)


def _as_typed(setting: Setting) -> str:
    """Return a text as the user wrote it: YAML makes False of a folder called `no`, and cuts `a #b` short."""
    if setting.raw is not None and not (isinstance(setting.value, str) and setting.raw.lstrip().startswith(("'", '"'))):
        return setting.raw.strip()
    return "" if setting.value is None else str(setting.value)


def _apply_alias(cfg: DictConfig, setting: Setting, known: Mapping[str, object]) -> None:
    alias = find_alias(setting.key)
    if alias is None:
        owner = setting.key.rpartition(".")[0]
        if owner in known and not isinstance(known[owner], Mapping):
            raise ValueError(f"{setting.where}: {owner} is not a section, expected a {type_in_words(known[owner])}")
        raise ValueError(f"{setting.where}: {unknown_key(setting.key, list(known))}")
    value = setting.value
    if alias.switch:
        if not isinstance(value, bool):
            raise ValueError(f"{setting.where}: {setting.key} is {value!r}, expected true or false")
        value = float(value)
    if alias.index is None:
        _update(cfg, alias.key, value, setting, known[alias.key])
        return
    values: list[object] = list(OmegaConf.select(cfg, alias.key))
    if alias.index >= len(values):
        raise ValueError(f"{setting.where}: {setting.key} sets number {alias.index} of {alias.key}, which is {values}")
    default = values[alias.index]
    values[alias.index] = value
    _update(cfg, alias.key, values, setting, default)


def _update(cfg: DictConfig, key: str, value: object, setting: Setting, default: object) -> None:
    try:
        OmegaConf.update(cfg, key, value, merge=False)
    except ValidationError:
        shown = setting.value if setting.raw is None else setting.raw
        raise ValueError(
            f"{setting.where}: {setting.key} is {shown!r}, expected a {type_in_words(default)} such as {default}"
        ) from None
    except OmegaConfBaseException as error:
        raise ValueError(f"{setting.where}: {str(error).splitlines()[0]}") from None


def _check_interpolations(cfg: DictConfig) -> None:
    """Raise ValueError where `${key}` names nothing, or the wrong type; `cfg` keeps its interpolations."""
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise ValueError(f"{key}{str(error).splitlines()[0]}") from None
