"""What official code makes of checkpoints: its model and optimizer load and give them, its loader reads files.

Official writes a training checkpoint through FSDP (`dinov2/fsdp/__init__.py:84`), which needs CUDA. Its content is what
is used here: the state dicts of model and optimizer, and the iteration.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from parity.adapters.common import held_state, optimizer_with
from parity.names import canonical
from parity.reference import Reference

__all__ = ["export_official", "load_official", "load_official_weights", "official_positions"]

Held = Mapping[str, Mapping[str, Tensor]]


def load_official(reference: Reference, config: DictConfig, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Load a training checkpoint strictly into a fresh model and optimizer, and return what they hold.

    Args:
        reference: the opened official code.
        config: official configuration, owned by the call.
        checkpoint: `model` and, where there is one, `optimizer`.
    """
    model, optimizer, names = _built(reference, config)
    model.load_state_dict(checkpoint["model"], strict=True)
    if "optimizer" in checkpoint:
        optimizer.load_state_dict(checkpoint["optimizer"])
    return held_state(model, optimizer, names)


def export_official(reference: Reference, config: DictConfig, held: Held, iteration: int) -> dict[str, Any]:
    """Return the checkpoint of a model and an optimizer that hold this state.

    Args:
        reference: the opened official code.
        config: official configuration, owned by the call.
        held: from `load_official`.
        iteration: the last that was carried out, as official counts (`dinov2/train/train.py:151`).
    """
    model, optimizer, names = _built(reference, config)
    spelled = {canonical(name): name for name in model.state_dict()}
    model.load_state_dict({spelled[canonical(name)]: tensor for name, tensor in held["model"].items()}, strict=True)
    optimizer_with(optimizer, names, held)
    return {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict(), "iteration": iteration}


def load_official_weights(
    reference: Reference, config: DictConfig, checkpoint: Mapping[str, Any]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read a file with this content as official does for evaluation (`dinov2/utils/utils.py:20`).

    Of a file with `teacher` that is taken, as evaluation asks for it, and of one with `model` that, as
    `dinov2/train/ssl_meta_arch.py:45` does.

    Returns:
        The backbone's tensors afterwards, and the names of those that the file did not change: the loader is not
        strict, and says nothing of what it left out.
    """
    backbone, _, _ = reference.module("models").build_model_from_cfg(config)
    _poison(backbone)
    key = next((key for key in ("teacher", "model") if key in checkpoint), None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save(dict(checkpoint), file)
        reference.module("utils.utils").load_pretrained_weights(backbone, str(file), key)
    state = {f"backbone.{canonical(name)}": tensor.detach().clone() for name, tensor in backbone.state_dict().items()}
    return state, tuple(name for name, tensor in state.items() if tensor.isnan().all())


def official_positions(reference: Reference, config: DictConfig, pos_embed: Tensor, size: int) -> Tensor:
    """Return the positions with which official runs an image on weights that were trained at another size.

    Args:
        reference: the opened official code.
        config: whose `crops.global_crops_size` is that of the image; owned by the call.
        pos_embed: (1, 1 + N, D) of the weights.
        size: pixels of a side that the N patches cover.
    """
    image = config.crops.global_crops_size
    config.crops.global_crops_size = size
    backbone, _, width = reference.module("models").build_model_from_cfg(config)
    backbone.pos_embed = nn.Parameter(pos_embed.detach().clone())
    patches = (image // config.student.patch_size) ** 2
    with torch.no_grad():
        found: Tensor = backbone.interpolate_pos_encoding(pos_embed.new_zeros(1, 1 + patches, width), image, image)
    return found.detach()


def _built(reference: Reference, config: DictConfig) -> tuple[Any, torch.optim.Optimizer, dict[int, str]]:
    model = reference.module("train.ssl_meta_arch").SSLMetaArch(config)
    optimizer = reference.module("train.train").build_optimizer(config, model.get_params_groups())
    return model, optimizer, {id(p): canonical(name) for name, p in model.student.named_parameters()}


def _poison(module: nn.Module) -> None:
    """Fill a module with NaN, so that what a loader leaves alone shows."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(torch.nan)
