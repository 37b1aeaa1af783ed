"""What the family `trajectory` trains: the inputs of a run, and what passed in it, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity import states
from parity.checks.gradients import starting_state
from parity.errors import SubjectError
from parity.judge import Inputs
from parity.names import canonical_mapping
from parity.recipes import Recipe
from parity.seeding import seeded
from parity.stack import stack_name

__all__ = ["LENGTH", "SHORT", "SNAPSHOTS", "flat_trajectory", "trajectory_inputs"]

LENGTH = 100
"""Iterations of a run; `--quick` makes `SHORT` of them."""

SHORT = 10

SNAPSHOTS = (0, 1, 9, 49, 59, 99)
"""Iterations after which everything that training carries on is compared; losses are at each."""

_EPOCHS = 10
_SEED = 23


def trajectory_inputs(
    reference: Any, recipe: Recipe, state: str, steps: int
) -> tuple[DictConfig, dict[str, Tensor], list[dict[str, Any]]]:
    """Return configuration, named float inputs, and for each step the rest of its batch.

    The whole training is `steps` long, so that inside it the last layer is released and warm-up ends after a fifth,
    the teacher's temperature after two fifths, and every cosine runs to its end. Ten batches of images come again every
    tenth step, under new masks.

    Args:
        reference: the official stack, which collates the batches and builds the initial state.
        recipe: what is trained.
        state: `generic` or `init`, see `parity.states`.
        steps: a multiple of ten.
    """
    config = recipe.config()
    config.optim.epochs, config.train.OFFICIAL_EPOCH_LENGTH = _EPOCHS, steps // _EPOCHS
    # Of ten steps the first has no learning rate at all: frozen for it alone, the last layer would not show it.
    config.optim.freeze_last_layer_epochs = 2
    crops = config.crops
    inputs = {f"state {name}": tensor for name, tensor in starting_state(reference, config, state).items()}
    seeded(_SEED)
    for place in range(_EPOCHS):
        given = states.samples(
            recipe.batch_size,
            crops.global_crops_size,
            crops.local_crops_size,
            crops.local_crops_number,
            _SEED + 100 * place,
        )
        batch = reference.collate(given, config, torch.float32)
        inputs |= {f"{place} {name}": batch[name] for name in ("collated_global_crops", "collated_local_crops")}
    return config, inputs, [_masks(reference, recipe, config, step) for step in range(steps)]


def _masks(reference: Any, recipe: Recipe, config: DictConfig, step: int) -> dict[str, Any]:
    """Return a batch without its images: half of the crops masked, in some steps all, one, or none."""
    config = config.copy()
    if step % 7 == 3:
        config.ibot.mask_sample_probability = 1.0
    elif step % 7 == 5:
        config.ibot.mask_sample_probability = 1.01 / (2 * recipe.batch_size)
    elif step % 7 == 6 and config.train.centering != "centering":  # there the centre would be NaN for good (Q13)
        config.ibot.mask_sample_probability = 0.0
    batch = dict(reference.collate(states.samples(recipe.batch_size, 1, 1, 1, step), config, torch.float32))
    return {name: value for name, value in batch.items() if not name.endswith("_crops")}


def flat_trajectory(
    stack: Any,
    config: DictConfig,
    given: Inputs,
    masks: Sequence[Mapping[str, Any]],
    train: Callable[..., Any] | None = None,
) -> dict[str, Tensor]:
    """Train the stack and return what passed under `step N/losses/name` and `step N/part/name`, in order of time.

    Args:
        stack: trained.
        config: official configuration.
        given: the state and ten batches of images.
        masks: the rest of each step's batch.
        train: called in place of the stack's `training_trajectory`.

    Raises:
        SubjectError: the stack returned something else.
    """
    state = {name.removeprefix("state "): t.clone() for name, t in given.items() if name.startswith("state ")}
    batches = []
    for step, rest in enumerate(masks):
        place = f"{step % _EPOCHS} "
        images = {name.removeprefix(place): t.clone() for name, t in given.items() if name.startswith(place)}
        batches.append({**{k: v.clone() if isinstance(v, Tensor) else v for k, v in rest.items()}, **images})
    wanted = [step for step in SNAPSHOTS if step < len(batches)]
    result = (train or stack.training_trajectory)(config.copy(), state, batches, wanted, _SEED)
    return _flattened(result, len(batches), stack_name(stack))


def _flattened(result: Any, steps: int, owner: str) -> dict[str, Tensor]:
    losses = result.get("losses") if isinstance(result, Mapping) else None
    if not isinstance(losses, Sequence) or len(losses) != steps:
        found = f"{len(losses)} of them" if isinstance(losses, Sequence) else f"{type(losses).__name__}"
        raise SubjectError(
            f"{owner}: training_trajectory returned as 'losses' {found}, expected a list of {steps} mappings, "
            "one for each iteration"
        )
    snapshots = result.get("snapshots", {})
    flat: dict[str, Tensor] = {}
    for step, shown in enumerate(losses):
        flat |= {f"step {step}/losses/{name}": torch.as_tensor(value).detach() for name, value in shown.items()}
        for part, tensors in snapshots.get(step, {}).items():
            named = canonical_mapping({n: t for n, t in tensors.items() if t is not None}, owner)
            flat |= {f"step {step}/{part}/{name}": torch.as_tensor(value).detach() for name, value in named.items()}
    return flat
