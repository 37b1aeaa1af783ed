"""Masks, parameter groups and schedules."""

import torch

from port.optim import CosineScheduler


def generate_random_token_masks(batch_size, n_patches_h, n_patches_w, mask_ratio, device):
    """Independent Bernoulli sampling: each token is masked with probability mask_ratio."""
    n_patches = n_patches_h * n_patches_w
    token_masks = torch.bernoulli(torch.ones(batch_size, n_patches) * mask_ratio).bool().to(device)
    return token_masks


def get_params_groups(model):
    """Two groups: regularized, and not regularized (biases and norms)."""
    regularized = []
    not_regularized = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        if name.endswith(".bias") or len(param.shape) == 1:
            not_regularized.append(param)
        else:
            regularized.append(param)
    return [{"params": regularized}, {"params": not_regularized, "weight_decay": 0.0}]


def build_optimizer(student, args):
    return torch.optim.AdamW(
        [
            *get_params_groups(student.module.backbone),
            *get_params_groups(student.module.classhead),
            *get_params_groups(student.module.patchhead),
        ],
        betas=(args.adamw_beta1, args.adamw_beta2),
    )


def build_schedules(args):
    total = args.epochs * args.epoch_length
    temp_warmup = args.warmup_teacher_temp_epochs * args.epoch_length
    return {
        "lr": CosineScheduler(args.lr, args.min_lr, total, args.warmup_epochs * args.epoch_length),
        "wd": CosineScheduler(args.weight_decay, args.weight_decay_end, total),
        "momentum": CosineScheduler(args.momentum_teacher, args.final_momentum_teacher, total),
        "teacher_temp": CosineScheduler(
            args.teacher_temp, args.teacher_temp, temp_warmup, temp_warmup, args.warmup_teacher_temp
        ),
    }
