"""Family `trajectory`: many iterations of training, official `do_train` against the subject's, step by step.

One step shows neither whether gradients are cleared, nor what is carried from step to step: AdamW's moments and its
count of steps, the centre that waits for its next use, the teacher that lags, the schedules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from parity.checks.base import Check, Context, Observation, Partly
from parity.checks.growth import growth, step_of
from parity.checks.training_runs import LENGTH, SHORT, SNAPSHOTS, flat_trajectory, trajectory_inputs
from parity.compare import SEMANTIC_FACTOR, Noise, exact, judged, missing
from parity.judge import Computation, Inputs, in_float64, noise_in_float64
from parity.results import Comparison
from parity.stack import claims_bitwise

__all__ = [
    "CHECKS",
    "LENGTH",
    "LONG",
    "SHORT",
    "SNAPSHOTS",
    "compared_by_size",
    "compared_exactly",
    "flat_trajectory",
    "told",
    "trajectory_inputs",
    "unbroken",
]

_PARTS = ("parameters", "exp_avg", "exp_avg_sq", "teacher", "centers")
_REPLICATES = 2

LONG = "default"
"""The recipe under which more is made than under the others: with centering, so that an update is always pending."""


def _trajectory(context: Context) -> Iterator[Observation]:
    """Losses of every step, and student, moments, teacher and centres after some: bit for bit, and in float64.

    In float32 AdamW turns the rounding of a gradient that is zero in theory into steps of the learning rate, so only
    a subject that claims equal bits is judged there, from the initial state that training starts with. In float64
    rounding stays rounding over a hundred steps, and everyone is judged by size, from the generic state; who has made
    a hundred equal steps in float32 makes a hundred in float64 under one recipe, under the others a few.
    """
    length = SHORT if context.quick else LENGTH
    if claims_bitwise(context.subject):
        yield from told(_in_float32(context, length), "in float32 from the initial state")
        length = length if context.required_recipe().name == LONG else SHORT
    yield from told(_in_float64(context, length), "in float64 from the generic state")


def told(observations: Iterator[Observation], where: str) -> Iterator[Observation]:
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
    base = unbroken(context, config, inputs, masks)
    yield from compared_exactly(base, mine)


def unbroken(
    context: Context, config: DictConfig, inputs: Inputs, masks: Sequence[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Return official's training in float32 from the initial state, made once for all checks of a recipe."""
    key = f"trajectory of {len(masks)}"
    if key not in context.shared:
        context.shared[key] = flat_trajectory(context.reference, config, inputs, masks)
    found: dict[str, Tensor] = context.shared[key]
    return found


def compared_exactly(base: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> Iterator[Observation]:
    """Compare two trainings bit for bit, without the parts that the subject does not return."""
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
    yield from compared_by_size(context, compute, inputs, base, mine)


def compared_by_size(
    context: Context, compute: Computation, inputs: Inputs, base: Mapping[str, Tensor], mine: Mapping[str, Tensor]
) -> Iterator[Observation]:
    """Compare two trainings in float64 by T1; `compute` trains the reference again, for its noise, if they differ."""
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
