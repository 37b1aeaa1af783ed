"""What the optimizer sees: parameter groups, and the schedules that set their hyperparameters."""

from __future__ import annotations

from port.optim.param_groups import (
    adamw_kernel,
    build_optimizer,
    describe_groups,
    fuse_params_groups,
    get_params_groups_with_decay,
    get_vit_lr_decay_rate,
)
from port.optim.prototypes import PrototypeOptimizer
from port.optim.schedules import (
    CosineScheduler,
    Hyperparameters,
    Schedules,
    apply_optim_scheduler,
    build_schedulers,
)

__all__ = [
    "CosineScheduler",
    "Hyperparameters",
    "PrototypeOptimizer",
    "Schedules",
    "adamw_kernel",
    "apply_optim_scheduler",
    "build_optimizer",
    "build_schedulers",
    "describe_groups",
    "fuse_params_groups",
    "get_params_groups_with_decay",
    "get_vit_lr_decay_rate",
]
