"""Family `trajectory`: many iterations of training, official `do_train` against the subject's, step by step.

One step shows neither whether gradients are cleared, nor what is carried from step to step: AdamW's moments and its
count of steps, the centre that waits for its next use, the teacher that lags, the schedules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity import states
from parity.checks.base import Check, Context, Observation, Partly
from parity.checks.gradients import starting_state
from parity.checks.growth import growth, step_of
from parity.compare import SEMANTIC_FACTOR, Noise, exact, judged, missing
from parity.errors import SubjectError
from parity.judge import Inputs, in_float64, noise_in_float64
from parity.names import canonical_mapping
from parity.recipes import Recipe
from parity.results import Comparison
from parity.seeding import seeded
from parity.stack import claims_bitwise, stack_name

__all__ = ["CHECKS", "LENGTH", "SNAPSHOTS", "flat_trajectory", "trajectory_inputs"]

LENGTH = 100
"""Iterations of a run; `--quick` makes `SHORT` of them."""

SHORT = 10

SNAPSHOTS = (0, 1, 9, 49, 99)
"""Iterations after which everything that training carries on is compared; losses are at each."""

_PARTS = ("parameters", "exp_avg", "exp_avg_sq", "teacher", "centers")
_EPOCHS = 10
_SEED = 23
_REPLICATES = 2


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
    stack: Any, config: DictConfig, given: Inputs, masks: Sequence[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Train the stack and return what passed under `step N/losses/name` and `step N/part/name`, in order of time.

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
    result = stack.training_trajectory(config.copy(), state, batches, wanted, _SEED)
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


def _trajectory(context: Context) -> Iterator[Observation]:
    """Losses of every step, and student, moments, teacher and centres after some: bit for bit, and in float64.

    In float32 AdamW turns the rounding of a gradient that is zero in theory into steps of the learning rate, so only
    a subject that claims equal bits is judged there, from the initial state that training starts with. In float64
    rounding stays rounding over a hundred steps, and everyone is judged by size, from the generic state.
    """
    length = SHORT if context.quick else LENGTH
    if claims_bitwise(context.subject):
        yield from _told(_in_float32(context, length), "in float32 from the initial state")
        length = SHORT
    yield from _told(_in_float64(context, length), "in float64 from the generic state")


def _told(observations: Iterator[Observation], where: str) -> Iterator[Observation]:
    """Pass everything on, and show how a difference grows."""
    made: list[Comparison] = []
    for observation in observations:
        if isinstance(observation, Comparison):
            made.append(observation)
        yield observation
    yield from growth(made, where)


def _in_float32(context: Context, steps: int) -> Iterator[Observation]:
    config, inputs, masks = trajectory_inputs(context.reference, context.required_recipe(), "init", steps)
    mine = flat_trajectory(context.subject, config, inputs, masks)
    base = flat_trajectory(context.reference, config, inputs, masks)
    lacking = _lacking(mine)
    yield from _partly(lacking)
    for name, left, right in _paired(base, mine, lacking):
        given = left is not None and right is not None
        yield exact(f"init/{name}", left, right) if given else missing(f"init/{name}", in_subject=left is None)


def _in_float64(context: Context, steps: int) -> Iterator[Observation]:
    config, inputs, masks = trajectory_inputs(context.reference, context.required_recipe(), "generic", steps)

    def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
        return flat_trajectory(stack, config, given, masks)

    mine = in_float64(compute, context.subject, inputs)
    base = in_float64(compute, context.reference, inputs)
    lacking = _lacking(mine)
    yield from _partly(lacking)
    pairs = list(_paired(base, mine, lacking))
    noise = dict.fromkeys(base, Noise(0.0, 0.0))
    if not all(left is not None and right is not None and exact("", left, right).bitwise for _, left, right in pairs):
        noise = _so_far(noise_in_float64(compute, context.reference, inputs, base, _REPLICATES))
    for name, left, right in pairs:
        if left is None or right is None:
            yield missing(f"generic/{name}", in_subject=left is None, tier="T1")
        else:
            yield judged(f"generic/{name}", "T1", left, right, noise[name], SEMANTIC_FACTOR)


def _so_far(noise: Mapping[str, Noise]) -> dict[str, Noise]:
    """Return for each tensor its noise at the step where it was largest so far, the first ten steps taken as one.

    Two replicates of one number, a loss, now and then hardly move; over hundreds of numbers that would raise alarms.
    """
    largest: dict[tuple[str, int], Noise] = {}
    for name in sorted(noise, key=step_of):
        what, step = name.split("/", 1)[1], max(step_of(name), SHORT - 1)
        before = largest.get((what, -1), noise[name])
        largest[what, step] = largest[what, -1] = noise[name].joined(before)
    return {name: largest[name.split("/", 1)[1], max(step_of(name), SHORT - 1)] for name in noise}


def _lacking(mine: Mapping[str, Tensor]) -> list[str]:
    return [part for part in _PARTS if not any(name.split("/")[1] == part for name in mine)]


def _partly(lacking: Sequence[str]) -> Iterator[Partly]:
    if lacking:
        yield Partly(f"training_trajectory returns no {', '.join(lacking)}")


def _paired(
    base: Mapping[str, Tensor], mine: Mapping[str, Tensor], lacking: Sequence[str]
) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
    """Yield what either side returned, in order of time, without the parts that the subject does not offer."""
    names = dict.fromkeys([*base, *mine])
    for name in sorted(names, key=step_of):
        if name.split("/")[1] not in lacking:
            yield name, base.get(name), mine.get(name)


CHECKS = (
    Check(
        "trajectory.steps",
        "L4",
        f"{LENGTH} training steps ({SHORT} with --quick): every loss; student, moments, teacher and centres on the way",
        ("dinov2/train/train.py:134-300", "dinov2/train/ssl_meta_arch.py:144-400"),
        ("training_trajectory",),
        _trajectory,
        recipes="main",
    ),
)
