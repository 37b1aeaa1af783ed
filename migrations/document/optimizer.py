"""Sections 7 and 6 of the document, in the order in which its changes meet: groups, then the loop over them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

__all__ = ["apply_schedules", "get_params_groups_with_decay"]


def get_params_groups_with_decay(
    model: nn.Module, lr_decay_rate: float = 0.9, patch_embed_lr_mult: float = 0.2
) -> list[dict[str, Any]]:
    """Return section 7's groups: one per trainable parameter, with its multipliers.

    Departs from `dinov2/utils/param_groups.py:51` as follows:

    - the depth is `len(model.blocks)`, which is the number of chunks in a chunked backbone, where official
      reads `n_blocks` (`:53-56`), and which no head has, where official falls back to 0 (`:63-65`);
    - the layer is the number after `blocks.`, the chunk's in a chunked backbone (official: `:43-46`);
    - `mask_token` and `register_tokens` count as the head, not as embeddings (official: `:25-40`);
    - LayerScale's `gamma` decays (official: `:80`);
    - no `is_last_layer` (official: `:77-78`), and nothing fuses the groups (official: `:92-103`).

    Args:
        model: a backbone with `blocks`.
        lr_decay_rate: learning rate of a layer over that of the layer above it.
        patch_embed_lr_mult: further factor for the patch embedding.

    Raises:
        AttributeError: the model has no `blocks`, as heads have none.
    """
    blocks = model.blocks
    num_layers = len(blocks)  # type: ignore[arg-type]  # the literal form: any module may lack `blocks`
    groups: list[dict[str, Any]] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        if "patch_embed" in name or "cls_token" in name or "pos_embed" in name:
            layer_id = 0
        elif "blocks." in name:
            layer_id = int(name.split("blocks.")[1].split(".")[0]) + 1
        else:
            layer_id = num_layers + 1
        lr_multiplier = lr_decay_rate ** (num_layers + 1 - layer_id)
        if "patch_embed" in name:
            lr_multiplier *= patch_embed_lr_mult
        undecayed = name.endswith(".bias") or "norm" in name
        groups.append(
            {
                "params": param,
                "lr_multiplier": lr_multiplier,
                "wd_multiplier": 0.0 if undecayed else 1.0,
            }
        )
    return groups


def apply_schedules(optimizer: Optimizer, lr: float, wd: float) -> None:
    """Set every group's learning rate, and the weight decay of every second group: section 6's repair.

    Right for six groups that alternate between decayed and not. On section 7's groups the position of a
    parameter decides whether it decays, and neither of its multipliers is read; official multiplies both
    (`dinov2/train/train.py:113-119`).
    """
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = lr
        if i % 2 == 0:
            group["weight_decay"] = wd
