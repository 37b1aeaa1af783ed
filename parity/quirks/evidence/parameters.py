"""What official's heads, parameter groups and schedules do."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from parity.quirks.evidence.tools import Observation, small_config
from parity.reference import Reference

__all__ = [
    "decayed_tokens",
    "frozen_layer",
    "last_layer",
    "prefixed_layer",
    "scaling_rule",
    "schedule_ends",
    "weight_g",
]


def _head(reference: Reference) -> Any:
    return reference.module("layers").DINOHead(16, 512, hidden_dim=64, bottleneck_dim=256)


def _groups(reference: Reference, model: nn.Module, **options: float) -> dict[str, dict[str, Any]]:
    """Return official's parameter groups of a model by parameter name."""
    groups = reference.module("utils.param_groups").get_params_groups_with_decay(model, **options)
    return {group["name"]: group for group in groups}


def weight_g(reference: Reference) -> Observation:
    """Build a head and its groups, and look for the lengths of the last layer's rows."""
    head = _head(reference)
    if not head.last_layer.weight_g.requires_grad:
        return Observation(False, "last_layer.weight_g is not trained")
    decay = _groups(reference, head)["last_layer.weight_g"]["wd_multiplier"]
    return Observation(decay == 1, f"last_layer.weight_g is trained, weight decay times {decay:g}")


@torch.no_grad()
def last_layer(reference: Reference) -> Observation:
    """Build a head and compare the spread of its last layer with that of the others."""
    head = _head(reference)
    last, other = float(head.last_layer.weight_v.std()), float(head.mlp[-1].weight.std())
    default = 1 / math.sqrt(3 * 256)
    confirmed = math.isclose(last, default, rel_tol=0.05) and math.isclose(other, 0.02, rel_tol=0.1)
    return Observation(confirmed, f"std {last:.4f} (nn.Linear's {default:.4f}), the layer before it {other:.4f}")


def prefixed_layer(reference: Reference) -> Observation:
    """Ask for the rate of block 5 in chunk 0 of 12, bare and behind prefixes; the rate tells the layer."""
    rate = reference.module("utils.param_groups").get_vit_lr_decay_rate
    layers = {}
    for prefix in ("", "_orig_mod.", "module."):
        name = f"{prefix}blocks.0.5.norm1.weight"
        value = rate(name, 0.5, num_layers=12, force_is_backbone=True, chunked_blocks=True)
        layers[f"{prefix}blocks.0.5"] = round(13 + math.log2(value))
    confirmed = list(layers.values()) == [6, 1, 1]
    return Observation(confirmed, ", ".join(f"{name} is layer {layer}" for name, layer in layers.items()))


def decayed_tokens(reference: Reference) -> Observation:
    """Build a backbone of depth 2 and its groups with decay 0.9 per layer and 0.2 for the patch embedding.

    It has register tokens where the reference knows them.
    """
    transformer = reference.module("models.vision_transformer").DinoVisionTransformer
    registers = {"num_register_tokens": 2} if "num_register_tokens" in inspect.signature(transformer).parameters else {}
    model = transformer(
        img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, init_values=0.1, block_chunks=0, **registers
    )
    groups = _groups(reference, model, lr_decay_rate=0.9, patch_embed_lr_mult=0.2)
    expected = ["cls_token", "pos_embed", "mask_token", *(["register_tokens"] if registers else [])]
    tokens = [name for name in expected if groups[name]["wd_multiplier"] == 1]
    spared = [
        name
        for name in ("blocks.0.norm1.weight", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.bias")
        if groups[name]["wd_multiplier"] == 0
    ]
    patch = groups["patch_embed.proj.weight"]["lr_multiplier"]
    confirmed = tokens == expected and len(spared) == 3 and math.isclose(patch, 0.2 * 0.9**3)
    seen = f"decayed: {', '.join(tokens) or 'no token'}; not: {', '.join(spared)}; patch_embed lr times {patch:.4f}"
    return Observation(confirmed, seen)


def frozen_layer(reference: Reference) -> Observation:
    """Step a last layer once under official's schedules in their first epoch."""
    train = reference.module("train.train")
    config = small_config(optim__lr=0.1)
    lr, wd, _, _, last_layer_lr = train.build_schedulers(config)
    weight = nn.Parameter(torch.ones(3))
    group = {"params": [weight], "is_last_layer": True, "lr_multiplier": 1.0, "wd_multiplier": 1.0}
    optimizer = train.build_optimizer(config, [group])
    train.apply_optim_scheduler(optimizer, lr[5], wd[5], last_layer_lr[5])
    weight.grad = torch.ones(3)
    optimizer.step()
    moment = float(optimizer.state[weight]["exp_avg"].max())
    still = bool((weight == 1).all())
    moves = "stays" if still else "moves"
    seen = f"lr {last_layer_lr[5]:g} beside {lr[5]:.3g}; the weight {moves}, its moment is {moment:.2g}"
    return Observation(still and moment > 0 and lr[5] > 0, seen)


def schedule_ends(reference: Reference) -> Observation:
    """Build a schedule of 20 iterations, 10 of them warm-up, from 0 to 1 and down to 0."""
    schedule = reference.module("utils.utils").CosineScheduler(1.0, 0.0, 20, warmup_iters=10)
    peak = [schedule[9], schedule[10]]
    last, after = schedule[19], schedule[20]
    seen = f"iterations 9 and 10: {peak[0]:.3f} and {peak[1]:.3f}; 19: {last:.4f}; 20: {after:g}"
    return Observation(peak == [1.0, 1.0] and last > 0 and after == 0, seen)


def scaling_rule(reference: Reference) -> Observation:
    """Scale a configuration that asks for another learning rate, and one that asks for another rule."""
    scale = reference.module("utils.config").apply_scaling_rules_to_cfg

    def config(rule: str) -> Any:
        optim = {"scaling_rule": rule, "base_lr": 0.004, "lr": 7.0, "min_lr": 1e-6}
        return OmegaConf.create({"optim": optim, "train": {"batch_size_per_gpu": 256}})

    scaled = scale(config("sqrt_wrt_1024")).optim
    try:
        scale(config("linear_wrt_256"))
        other = "accepted"
    except NotImplementedError:
        other = "refused"
    confirmed = math.isclose(scaled.lr, 0.002) and scaled.min_lr == 1e-6 and other == "refused"
    return Observation(
        confirmed, f"lr 7 becomes {scaled.lr:g}, min_lr stays {scaled.min_lr:g}; linear_wrt_256 is {other}"
    )
