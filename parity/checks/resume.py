"""Family `trajectory`: a training that is saved in the middle and loaded anew equals official's unbroken one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from parity.attribution.resume import attribute_resume
from parity.checks.base import Check, Context, Observation
from parity.checks.growth import step_of
from parity.checks.trajectory import (
    LENGTH,
    LONG,
    SHORT,
    compared_by_size,
    compared_exactly,
    flat_trajectory,
    told,
    trajectory_inputs,
    unbroken,
)
from parity.judge import Inputs, in_float64
from parity.results import Comparison
from parity.stack import claims_bitwise

__all__ = ["CHECKS"]

_FURTHER = 10
"""Steps that follow a resume of a hundred. They end with a snapshot of the whole state: equal there, equal for good."""


def _resume(context: Context) -> Iterator[Observation]:
    """Bit for bit in float32 under one recipe where the subject claims it, else by size in float64."""
    if claims_bitwise(context.subject) and context.required_recipe().name == LONG:
        length = SHORT if context.quick else LENGTH
        yield from told(_in_float32(context, length), f"in float32, resumed after step {_stop(length)}")
    else:
        yield from told(_in_float64(context, SHORT), f"in float64, resumed after step {_stop(SHORT)}")


def _stop(steps: int) -> int:
    """The last step before the resume."""
    return steps // 2 - 1


def _resumed(stack: Any, steps: int, **more: Any) -> Callable[..., Any]:
    def train(*given: Any) -> Any:
        return stack.resumed_trajectory(*given, _stop(steps), **more)

    return train


def _in_float32(context: Context, steps: int) -> Iterator[Observation]:
    config, inputs, masks = trajectory_inputs(context.reference, context.required_recipe(), "init", steps)
    base = unbroken(context, config, inputs, masks)
    masks = masks[: _stop(steps) + 1 + _FURTHER]
    base = {name: tensor for name, tensor in base.items() if step_of(name) < len(masks)}
    mine = flat_trajectory(context.subject, config, inputs, masks, _resumed(context.subject, steps))
    made = list(compared_exactly(base, mine))
    yield from made

    def replay(lost: str) -> dict[str, Tensor]:
        return flat_trajectory(context.reference, config, inputs, masks, _resumed(context.reference, steps, lost=lost))

    yield from _explained(made, mine, replay, steps)


def _in_float64(context: Context, steps: int) -> Iterator[Observation]:
    config, inputs, masks = trajectory_inputs(context.reference, context.required_recipe(), "generic", steps)

    def training(train: Callable[..., Any] | None) -> Callable[[Any, Inputs], dict[str, Tensor]]:
        return lambda stack, given: flat_trajectory(stack, config, given, masks, train)

    mine = in_float64(training(_resumed(context.subject, steps)), context.subject, inputs)
    base = in_float64(training(None), context.reference, inputs)
    made = list(compared_by_size(context, training(None), inputs, base, mine))
    yield from made

    def replay(lost: str) -> dict[str, Tensor]:
        train = _resumed(context.reference, steps, lost=lost)
        return in_float64(training(train), context.reference, inputs)

    yield from _explained(made, mine, replay, steps)


def _explained(
    made: Sequence[Observation],
    mine: Mapping[str, Tensor],
    replay: Callable[[str], dict[str, Tensor]],
    steps: int,
) -> Iterator[Observation]:
    """Say what the resume lost, unless the training differed before it."""
    failed = [step_of(one.name) for one in made if isinstance(one, Comparison) and not one.passed]
    if failed and min(failed) > _stop(steps):
        yield from attribute_resume(mine, replay, _stop(steps))


CHECKS = (
    Check(
        "trajectory.resume",
        "L4",
        "training saved after step 49 of 100 (4 of 10) and loaded anew, against official's unbroken one",
        ("dinov2/train/train.py:134-300", "dinov2/fsdp/__init__.py:85-116"),
        ("resumed_trajectory",),
        _resume,
        recipes="main",
    ),
)
