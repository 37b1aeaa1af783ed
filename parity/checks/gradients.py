"""Family `gradients`: one whole training step, official `do_train` against the subject's, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity import states
from parity.attribution.step import attribute_census, attribute_frozen
from parity.census import PatchCensus
from parity.checks.base import Check, Context, Observation, Partly
from parity.compare import exact, missing
from parity.errors import SubjectError
from parity.judge import Inputs, Judge
from parity.names import canonical_mapping
from parity.recipes import Recipe
from parity.seeding import seeded
from parity.stack import claims_bitwise, forms_of, stack_name
from parity.tables import row

__all__ = ["CHECKS", "flat_step", "starting_state", "step_inputs"]

_STEP = ("dinov2/train/train.py:134-300", "dinov2/train/ssl_meta_arch.py:144-400")
_PARTS = (
    "losses",
    "gradients",
    "clipped_gradients",
    "exp_avg",
    "exp_avg_sq",
    "parameters",
    "teacher",
    "centers",
)
_SEED = 17


def step_inputs(reference: Any, recipe: Recipe, state: str) -> tuple[DictConfig, dict[str, Tensor], dict[str, Any]]:
    """Return configuration, named float inputs and the rest of the batch of a step.

    Args:
        reference: the official stack, which collates the batch and builds the initial state.
        recipe: what is stepped.
        state: `generic` or `init`, see `parity.states`.
    """
    config = recipe.config()
    n_local = config.crops.local_crops_number
    size, local = config.crops.global_crops_size, config.crops.local_crops_size
    seeded(_SEED)
    given = states.samples(recipe.batch_size, size, local, max(n_local, 1), _SEED)
    batch = dict(reference.collate(given, config, torch.float32))
    if n_local == 0:  # official collate cannot stack zero crops (Q19); its forward takes an empty tensor
        batch["collated_local_crops"] = batch["collated_local_crops"][:0]
    inputs = {f"state {name}": tensor for name, tensor in starting_state(reference, config, state).items()}
    images = ("collated_global_crops", "collated_local_crops")
    inputs |= {name: batch.pop(name) for name in images}
    return config, inputs, batch


def starting_state(reference: Any, config: DictConfig, state: str) -> dict[str, Tensor]:
    """Return the named state: `generic`, or `init` with the teacher synchronised with the student, as training does."""
    initial = reference.init_state(config, _SEED)
    if state == "generic":
        return states.generic_state(initial, _SEED)
    return {n: initial.get(n.replace("teacher.", "student.", 1), t) for n, t in initial.items()}


def flat_step(
    stack: Any,
    config: DictConfig,
    given: Inputs,
    batch: Mapping[str, Any],
    iteration: int,
    parts: Sequence[str] = _PARTS,
) -> dict[str, Tensor]:
    """Run the stack's training step and return the tensors of the given parts under `part/name`."""
    result = _step(stack, config, given, batch, iteration)
    return {f"{part}/{name}": value for part in parts for name, value in result.get(part, {}).items()}


def _step(
    stack: Any, config: DictConfig, given: Inputs, batch: Mapping[str, Any], iteration: int
) -> dict[str, dict[str, Any]]:
    state = {name.removeprefix("state "): t.clone() for name, t in given.items() if name.startswith("state ")}
    images = {name: t.clone() for name, t in given.items() if not name.startswith("state ")}
    whole = {**{k: v.clone() if isinstance(v, Tensor) else v for k, v in batch.items()}, **images}
    result = stack.training_step(config.copy(), state, whole, iteration, _SEED)
    return {
        part: canonical_mapping({n: v for n, v in values.items() if v is not None}, stack_name(stack))
        for part, values in result.items()
    }


def _whole_step(context: Context) -> Iterator[Observation]:
    """Losses, gradients before and after clipping, updated student, teacher and centres; and the rates applied."""
    recipe = context.required_recipe()
    # At initialisation CLS tokens nearly coincide and KoLeo's nearest neighbours hang on rounding: only a subject
    # that claims equal bits can be held to that state.
    both = claims_bitwise(context.subject) and not (context.quick or recipe.heavy)
    for state in ("generic", "init") if both else ("generic",):
        config, inputs, batch = step_inputs(context.reference, recipe, state)
        with PatchCensus() as census:
            mine = _step(context.subject, config, inputs, batch, recipe.iteration)
        parts = [part for part in _PARTS if part in mine]
        if not {"losses", "gradients"} & set(parts):
            raise SubjectError(f"training_step returned {', '.join(mine) or 'nothing'}; expected losses or gradients")
        lacking = [part for part in (*_PARTS, "hyperparameters") if part not in mine]
        if lacking:
            yield Partly(f"training_step returns no {', '.join(lacking)}")

        def compute(
            stack: Any,
            given: Inputs,
            config: DictConfig = config,
            batch: Mapping[str, Any] = batch,
            parts: Sequence[str] = parts,
        ) -> dict[str, Tensor]:
            return flat_step(stack, config, given, batch, recipe.iteration, parts)

        if recipe.heavy:
            mine.clear()  # a gigabyte, which nothing below asks for
        forms = forms_of(context.subject) if state == "generic" else {}
        judge = Judge(
            context.reference,
            context.subject,
            replicates=1 if recipe.heavy else 4,
            forms=forms,
            failed=None if recipe.heavy else context.failed,
            memory=None if recipe.heavy else context.memory,
        )
        yield from judge(state, compute, inputs)
        if state == "generic" and not recipe.heavy:
            with PatchCensus() as official_census:
                official = _step(context.reference, config, inputs, batch, recipe.iteration)
            if "hyperparameters" in mine:
                yield from _rates(official, mine, bitwise=claims_bitwise(context.subject))
                yield from attribute_frozen(official["hyperparameters"], mine["hyperparameters"])
            yield from _census(recipe, config, official_census, census)


def _rates(
    official: Mapping[str, Mapping[str, Any]], mine: Mapping[str, Mapping[str, Any]], *, bitwise: bool
) -> Iterator[Observation]:
    """The (lr, wd) that the optimizer was really given."""
    for name, rates in official["hyperparameters"].items():
        given = mine["hyperparameters"].get(name)
        if given is None:
            yield missing(f"applied/{name}", in_subject=False)
            continue
        yield row(
            f"applied/{name}",
            [rates["lr"], rates["weight_decay"]],
            [given["lr"], given["weight_decay"]],
            bitwise=bitwise,
            note="lr, weight decay",
        )


def _census(recipe: Recipe, config: DictConfig, official: PatchCensus, mine: PatchCensus) -> Iterator[Observation]:
    """Images through teacher and student, by size."""
    if not mine.rows:
        return  # the subject embeds patches without a convolution: nothing can be counted
    for key in sorted(set(official.rows) | set(mine.rows)):
        who, height, width = key
        yield exact(f"images/{who}/{height}x{width}", official.rows[key], mine.rows[key])
    yield from attribute_census(recipe.batch_size, config, official, mine)


CHECKS = (
    Check(
        "gradients.step",
        "L3",
        "one training step: losses, every gradient, clipping, AdamW, EMA, centres, rates",
        _STEP,
        ("training_step",),
        _whole_step,
        recipes="all",
    ),
)
