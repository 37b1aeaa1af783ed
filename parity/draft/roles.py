"""What parameters mean by their names, and the expression that a draft gives for each.

A role is a pattern that must match a whole name, in lower case, and Python source in which `config` is a
configuration with official's keys (see `parity explain capabilities`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from parity.draft.definitions import Parameter

__all__ = ["CONFIG_NAMES", "FLAGS_NAMES", "SETTINGS", "UnboundError", "bind", "head_roles", "role_of"]

Roles = Sequence[tuple[str, str]]

CONFIG_NAMES = re.compile(r"cfg|config|conf|cfg_node|full_cfg")
"""Parameters that take a nested configuration."""

FLAGS_NAMES = re.compile(r"args|opts|flags|hparams|hp")
"""Parameters that take parsed command-line flags."""

SETTINGS: Roles = (
    (r"embed_dim|emb_dim|hidden_size|width", "config.architecture.embed_dim"),
    (r"depth|n_layers|num_layers|n_blocks|num_blocks", "config.architecture.depth"),
    (r"num_heads|n_heads|heads", "config.architecture.num_heads"),
    (r"mlp_ratio", "config.architecture.mlp_ratio"),
    (r"arch|model_arch|model_name", "config.student.arch"),
    (r"patch_size", "config.student.patch_size"),
    (r"img_size|image_size|input_size|global_crops?_size|global_size", "config.crops.global_crops_size"),
    (r"local_crops?_size|local_size", "config.crops.local_crops_size"),
    (r"(n|num|nb)_local_crops|local_crops_number", "config.crops.local_crops_number"),
    (r"global_crops?_scale", "config.crops.global_crops_scale"),
    (r"local_crops?_scale", "config.crops.local_crops_scale"),
    (r"drop_path(_rate)?", "config.student.drop_path_rate"),
    (r"drop_path_uniform", "config.student.drop_path_uniform"),
    (r"layer_?scale(_init)?|init_values|ls_init", "config.student.layerscale"),
    (r"ffn_layer", "config.student.ffn_layer"),
    (r"block_chunks", "config.student.block_chunks"),
    (r"qkv_bias", "config.student.qkv_bias"),
    (r"proj_bias", "config.student.proj_bias"),
    (r"ffn_bias", "config.student.ffn_bias"),
    (r"num_register_tokens|n_registers|num_registers", "config.student.num_register_tokens"),
    (r"interpolate_antialias", "config.student.interpolate_antialias"),
    (r"interpolate_offset", "config.student.interpolate_offset"),
    (r"(dino_|cls_|class_)?(out_dim|n_prototypes|head_n_prototypes)", "config.dino.head_n_prototypes"),
    (r"(dino_|cls_|class_)?(head_)?hidden_dim", "config.dino.head_hidden_dim"),
    (r"(dino_|cls_|class_)?(head_)?bottleneck_dim", "config.dino.head_bottleneck_dim"),
    (r"(dino_)?(head_)?n_?layers_head|head_nlayers|head_n_layers", "config.dino.head_nlayers"),
    (r"(ibot|patch)_(head_)?(out_dim|n_prototypes)", "config.ibot.head_n_prototypes"),
    (r"(ibot|patch)_(head_)?hidden_dim", "config.ibot.head_hidden_dim"),
    (r"(ibot|patch)_(head_)?bottleneck_dim", "config.ibot.head_bottleneck_dim"),
    (r"(ibot|patch)_head_n_?layers", "config.ibot.head_nlayers"),
    (r"shared?_head|shared_head_for_ibot", "not config.ibot.separate_head"),
    (r"(ibot_)?separate_head", "config.ibot.separate_head"),
    (r"centering", "config.train.centering"),
    (r"dino_(loss_)?weight", "config.dino.loss_weight"),
    (r"ibot_(loss_)?weight", "config.ibot.loss_weight"),
    (r"koleo_(loss_)?weight", "config.dino.koleo_loss_weight"),
    (r"base_lr", "config.optim.base_lr"),
    (r"lr|learning_rate|peak_lr", "config.optim.lr"),
    (r"min_lr|final_lr|lr_end", "config.optim.min_lr"),
    (r"warmup_epochs", "config.optim.warmup_epochs"),
    (r"weight_decay|wd", "config.optim.weight_decay"),
    (r"weight_decay_end|final_wd|wd_end", "config.optim.weight_decay_end"),
    (r"epochs|num_epochs|n_epochs|max_epochs", "config.optim.epochs"),
    (r"clip_grad|grad_clip|max_grad_norm", "config.optim.clip_grad"),
    (r"(adamw?_)?beta1", "config.optim.adamw_beta1"),
    (r"(adamw?_)?beta2", "config.optim.adamw_beta2"),
    (r"layerwise_decay|layer_decay|lr_decay_rate", "config.optim.layerwise_decay"),
    (r"patch_embed_lr_mult", "config.optim.patch_embed_lr_mult"),
    (r"freeze_last_layer(_epochs)?", "config.optim.freeze_last_layer_epochs"),
    (r"momentum_teacher|teacher_momentum|ema_momentum", "config.teacher.momentum_teacher"),
    (r"final_momentum_teacher|final_teacher_momentum|momentum_end", "config.teacher.final_momentum_teacher"),
    (r"teacher_temp", "config.teacher.teacher_temp"),
    (r"warmup_teacher_temp", "config.teacher.warmup_teacher_temp"),
    (r"warmup_teacher_temp_epochs", "config.teacher.warmup_teacher_temp_epochs"),
    (r"official_epoch_length|epoch_length|(iters|steps|niter)_per_ep(och)?", "config.train.OFFICIAL_EPOCH_LENGTH"),
    (r"total_(iters|steps|iterations)|max_iters?", "config.optim.epochs * config.train.OFFICIAL_EPOCH_LENGTH"),
    (r"batch_size(_per_gpu)?", "config.train.batch_size_per_gpu"),
    (r"mask_ratio_min|min_mask_ratio", "config.ibot.mask_ratio_min_max[0]"),
    (r"mask_ratio_max|max_mask_ratio", "config.ibot.mask_ratio_min_max[1]"),
    (r"mask_ratio_(min_max|tuple|range)", "tuple(config.ibot.mask_ratio_min_max)"),
    (r"mask_(sample_)?prob(ability)?", "config.ibot.mask_sample_probability"),
    (r"device", '"cpu"'),
)
"""Flags and constructor arguments, as official's configuration has them."""


def head_roles(kind: str) -> Roles:
    """Return the roles of a projection head's constructor, for `dino` or `ibot`, or for an expression in braces."""
    sizes = f"config.{kind}"
    return (
        (r"in_dim|input_dim|embed_dim|in_features", "config.architecture.embed_dim"),
        (r"out_dim|output_dim|n_prototypes|num_prototypes|out_features", f"{sizes}.head_n_prototypes"),
        (r"hidden_dim|mlp_dim", f"{sizes}.head_hidden_dim"),
        (r"bottleneck_dim", f"{sizes}.head_bottleneck_dim"),
        (r"n_?layers|num_layers|depth", f"{sizes}.head_nlayers"),
    )


class UnboundError(Exception):
    """A required parameter whose name says nothing that parity could give."""

    def __init__(self, parameter: Parameter) -> None:
        super().__init__(f"its parameter `{parameter.name}` has no default and no meaning that its name would tell")


def role_of(name: str, roles: Roles) -> str | None:
    """Return the expression of the first role that matches a name."""
    return next((value for pattern, value in roles if re.fullmatch(pattern, name.lower())), None)


def bind(parameters: Sequence[Parameter], roles: Roles, known: Mapping[str, str] | None = None) -> list[str]:
    """Return the arguments of a call, as source, each parameter bound by its name.

    What has a default and no role keeps its default.

    Args:
        parameters: of the call.
        roles: patterns with their expressions; the first match counts.
        known: expressions for parameters by exact name, before the roles: values that the fork's own calls give.

    Raises:
        UnboundError: a required parameter has no role.
    """
    arguments: list[str] = []
    for parameter in parameters:
        value = (known or {}).get(parameter.name) or role_of(parameter.name, roles)
        if value is None and parameter.required:
            raise UnboundError(parameter)
        if value is not None:
            arguments.append(value if parameter.positional_only else f"{parameter.name}={value}")
    return arguments
