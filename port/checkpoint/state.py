"""A run's state as one flat dict of tensors, by names that no wrapper, grouping or sharding changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from port.losses.centering import CenteredLoss
from port.optim.param_groups import WRAPPERS
from port.ssl_meta_arch import SSLMetaArch

__all__ = ["SCALER_PREFIX", "plain_name", "training_state"]

SCALER_PREFIX = "scaler."


def training_state(
    model: SSLMetaArch,
    optimizers: Mapping[str, torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """Return the tensors that a run consists of; writing into them is how a run is restored.

    Random numbers need none: they are functions of the seed and the iteration. Pending centre updates (Q14) are
    applied first, which changes no number, and optimizer state that a parameter has not yet is made, as its first
    gradient would make it. All ranks must call this.

    Args:
        model: not its data-parallel wrapper.
        optimizers: Adam or AdamW over the model's parameters, by a name of your choice.
        scaler: of fp16; None without.

    Returns:
        `model.NAME` for every entry of the model's state dict, `optimizer.OPTIMIZER.KEY.NAME` by parameter, and
        `scaler.scale`, `scaler.growth_tracker`. They share memory with the run; sharded ones are DTensors.

    Raises:
        TypeError: an optimizer is of another kind.
        ValueError: an optimizer holds a parameter that the model has not.
    """
    for module in model.modules():
        if isinstance(module, CenteredLoss):
            module.apply_center_update()
    # FSDP2 brings parameters that a forward pass gathered back to their shards here: names are asked for later.
    state = {f"model.{plain_name(name)}": tensor for name, tensor in model.state_dict().items()}
    names = {id(parameter): plain_name(name) for name, parameter in model.named_parameters()}
    for optimizer_name, optimizer in optimizers.items():
        state.update(_optimizer_state(f"optimizer.{optimizer_name}", optimizer, names))
    if scaler is not None and scaler.is_enabled():
        state.update(_scaler_state(scaler, model))
    return state


def plain_name(name: str) -> str:
    """Return a name without what DDP, torch.compile and activation checkpointing put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _optimizer_state(prefix: str, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    if not isinstance(optimizer, torch.optim.Adam):
        raise TypeError(f"{prefix} is {type(optimizer).__name__}, expected Adam or AdamW, whose state has known names")
    state: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise ValueError(
                    f"{prefix} holds a parameter of shape {tuple(parameter.shape)} that is not the model's; build "
                    "optimizers after the model is on its device and sharded"
                )
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = _fresh_state(parameter, group)
            for key, value in optimizer.state[parameter].items():
                state[f"{prefix}.{key}.{names[id(parameter)]}"] = value
    return state


def _fresh_state(parameter: nn.Parameter, group: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state that Adam makes at a parameter's first gradient (`Adam._init_group`)."""
    on_device = group["capturable"] or group["fused"]
    wide = torch.get_default_dtype() == torch.float64 and not group["fused"]
    step = torch.zeros(
        (),
        dtype=torch.float64 if wide else torch.float32,
        device=parameter.device if on_device else "cpu",
    )
    keys = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
    moments = {key: torch.zeros_like(parameter, memory_format=torch.preserve_format).detach() for key in keys}
    return {"step": step, **moments}


def _scaler_state(scaler: torch.amp.GradScaler, model: nn.Module) -> dict[str, Tensor]:
    if scaler._scale is None:
        # The scaler makes its tensors at its first use.
        scaler.scale(torch.zeros((), device=next(model.parameters()).device))
    assert scaler._scale is not None
    assert scaler._growth_tracker is not None
    return {f"{SCALER_PREFIX}scale": scaler._scale, f"{SCALER_PREFIX}growth_tracker": scaler._growth_tracker}
