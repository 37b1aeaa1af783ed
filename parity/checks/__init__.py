"""Every check, in the order in which a run makes them: what is cheap and basic first."""

from __future__ import annotations

from parity.checks import (
    augment,
    built,
    checkpoint,
    collate,
    data_order,
    distributed,
    features,
    files,
    gradients,
    losses,
    masks,
    modules,
    param_groups,
    prototype,
    resume,
    schedules,
    statistical_augment,
    statistical_masks,
    trajectory,
    weights,
)
from parity.checks.base import FAMILIES, Check, Context, NotRunError, run_check

__all__ = ["CHECKS", "FAMILIES", "Check", "Context", "NotRunError", "run_check"]

CHECKS: tuple[Check, ...] = (
    *files.CHECKS,
    *masks.CHECKS,
    *statistical_masks.CHECKS,
    *collate.CHECKS,
    *augment.CHECKS,
    *statistical_augment.CHECKS,
    *data_order.CHECKS,
    *losses.CHECKS,
    *prototype.CHECKS,
    *schedules.CHECKS,
    *param_groups.CHECKS,
    *modules.CHECKS,
    *built.CHECKS,
    *features.CHECKS,
    *gradients.CHECKS,
    *trajectory.CHECKS,
    *resume.CHECKS,
    *weights.CHECKS,
    *checkpoint.CHECKS,
    *distributed.CHECKS,
)
