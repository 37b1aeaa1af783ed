"""What is written beside a checkpoint's tensors, and whether a configuration may go on from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata as distributions
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

__all__ = ["METADATA", "SCHEMA", "Metadata", "architecture", "as_container", "check_compatible", "config_differences"]

METADATA = "metadata.json"
SCHEMA = 1
Config = Mapping[str, Any]
# Keys that say where and how a run is carried out and watched: whatever they are, the same numbers come out.
HARMLESS = (
    "MODEL.",
    "activation_checkpointing",
    "checkpoint.",
    "data.worker_start",
    "evaluation.",
    "knn.",
    "logging.",
    "student.pretrained_weights",
    "train.cache_dataset",
    "train.num_workers",
    "train.output_dir",
    "train.saveckp_freq",
)
STUDENT_SHAPE = (
    *("arch", "patch_size", "ffn_layer", "block_chunks", "qkv_bias", "proj_bias", "ffn_bias"),
    "num_register_tokens",
)
HEAD_SHAPE = ("head_n_prototypes", "head_bottleneck_dim", "head_nlayers", "head_hidden_dim")
BANK_SHAPE = ("n_prototypes", "bias")


@dataclass(frozen=True)
class Metadata:
    """A checkpoint's JSON file.

    Attributes:
        iteration: the next one to carry out, from 0; it is the data loader's position too.
        config: the configuration as nested dicts.
        world_size: processes of the run that wrote it.
        bad_files: unreadable files met so far.
        wall_seconds: time the run has taken so far, earlier starts included.
        images: in the data set; 0 where it is not known.
        torch_version, port_version: of the run that wrote it.
        saved_at: UTC, ISO 8601.
        schema: version of this list.
    """

    iteration: int
    config: dict[str, Any]
    world_size: int
    bad_files: int = 0
    wall_seconds: float = 0.0
    images: int = 0
    torch_version: str = torch.__version__
    port_version: str = field(default_factory=lambda: _port_version())
    saved_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    schema: int = SCHEMA

    @classmethod
    def of_run(
        cls, iteration: int, cfg: DictConfig, bad_files: int = 0, wall_seconds: float = 0.0, images: int = 0
    ) -> Metadata:
        """Describe the running processes; see the class for the arguments."""
        return cls(iteration, as_container(cfg), _world_size(), bad_files, wall_seconds, images)

    def to_json(self) -> bytes:
        """Return the file's content."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Metadata:
        """Read the file's content.

        Raises:
            ValueError: it was written by another version of this package.
        """
        fields = json.loads(content)
        if fields.get("schema") != SCHEMA:
            raise ValueError(
                f"the checkpoint's {METADATA} has schema {fields.get('schema')!r} (dinov2-parity "
                f"{fields.get('port_version')}), expected {SCHEMA}; go on with the version that wrote it"
            )
        return cls(**fields)


def as_container(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as nested dicts, lists, strings and numbers."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}


def architecture(config: Config) -> dict[str, object]:
    """Return what decides the names and shapes of tensors; keys without effect are left out."""
    sections: list[tuple[str, tuple[str, ...]]] = [("student", STUDENT_SHAPE), ("dino", HEAD_SHAPE)]
    do_ibot = config["ibot"]["loss_weight"] > 0
    do_prototypes = config["prototype"]["loss_weight"] > 0
    separate_head = bool(do_ibot and config["ibot"]["separate_head"])
    if separate_head:
        sections.append(("ibot", HEAD_SHAPE))
    if do_prototypes:
        sections.append(("prototype", BANK_SHAPE))
    shapes = {f"{section}.{key}": config[section][key] for section, keys in sections for key in keys}
    return {
        **shapes,
        "crops.global_crops_size": config["crops"]["global_crops_size"],
        "student.layerscale": "0" if config["student"]["layerscale"] == 0 else "above 0",
        "ibot.loss_weight": "above 0" if do_ibot else "0",
        "ibot.separate_head": separate_head,
        "prototype.loss_weight": "above 0" if do_prototypes else "0",
    }


def config_differences(saved: Config, now: Config) -> list[str]:
    """Return lines `key: saved -> now` for what decides the names and shapes of tensors."""
    before, after = architecture(saved), architecture(now)
    # A key that only one side has goes with one that both have and that differs: the head or the loss is gone.
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if key in after and before[key] != after[key]]


def check_compatible(metadata: Metadata, cfg: DictConfig, images: int = 0) -> list[str]:
    """Compare a checkpoint's configuration with the one that is to go on.

    Args:
        metadata: of the checkpoint.
        cfg: of the run that resumes.
        images: in its data set; 0 where it is not known.

    Returns:
        A line for each key, or number, whose change makes the run another than the one that was interrupted.

    Raises:
        ValueError: the checkpoint is of another architecture.
    """
    now = as_container(cfg)
    differing = config_differences(metadata.config, now)
    if differing:
        raise ValueError(
            f"the checkpoint of iteration {metadata.iteration} is of another architecture ({'; '.join(differing)}); "
            "use its configuration, or another output folder"
        )
    before, after = dict(_leaves(metadata.config)), dict(_leaves(now))
    warnings = [
        f"{key} was {before.get(key)!r} and is {after.get(key)!r}: the run goes on, but not as it would have"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(HARMLESS)
    ]
    if 0 < metadata.images != images > 0:
        warnings.append(
            f"the data set had {metadata.images} images and has {images}: the run goes on, but with the images in "
            "another order"
        )
    if metadata.world_size != _world_size():
        warnings.append(
            f"the number of processes was {metadata.world_size} and is {_world_size()}: the global batch was "
            f"{_global_batch(metadata.config, metadata.world_size)} and is {_global_batch(now, _world_size())} images, "
            "and augmentations and masks are drawn anew"
        )
    return warnings


def _global_batch(config: Config, world_size: int) -> int:
    return int(config["train"]["batch_size_per_gpu"]) * int(config["accumulation_steps"]) * world_size


def _leaves(config: Config, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _port_version() -> str:
    try:
        return distributions.version("dinov2-parity")
    except distributions.PackageNotFoundError:
        return "unknown"  # the package is vendored, or run from its folder
