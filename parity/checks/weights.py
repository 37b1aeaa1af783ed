"""Family `checkpoint`, a network's weights alone: the spellings of files, positions, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from parity import spellings
from parity.checks.base import Check, Context, Observation, describe_error
from parity.checks.checkpoint import DAMAGES, answer, named, unchunked
from parity.checks.gradients import starting_state
from parity.compare import exact, exact_mapping
from parity.judge import Inputs, Judge
from parity.names import canonical, canonical_mapping
from parity.recipes import RECIPES
from parity.stack import stack_name

__all__ = ["CHECKS"]

_RECIPE = next(recipe for recipe in RECIPES if recipe.name == "vitl14")
"""With separate heads, every part that a network can have is in its file."""


def _weights(context: Context) -> Iterator[Observation]:
    """One network in every spelling in which files hold it; what official's loader reads, the subject must read.

    The rest it may refuse. What no one may do is to swallow it: to return as loaded what the file does not hold.
    """
    config = _RECIPE.config()
    state = {k: v for k, v in starting_state(context.reference, config, "generic").items() if not k.endswith("center")}
    whole = {canonical(n.removeprefix("teacher.")): t for n, t in state.items() if n.startswith("teacher.")}
    for name, content in spellings.files(state).items():
        _, skipped = context.reference.lenient_weights(config, copy.deepcopy(content))
        given = f"{name}/{{}}"
        try:
            mine = context.subject.load_weights(config.copy(), copy.deepcopy(content))
        except Exception as error:  # a refusal is an answer
            said = describe_error(error, stack_name(context.subject))
            if skipped:
                yield exact(given.format("not read by official's loader"), "loaded or refused", "loaded or refused")
            else:
                yield exact(given.format("read by official's loader"), "loaded", said)
            continue
        loaded = canonical_mapping(mine, stack_name(context.subject))
        parts = {tensor.partition(".")[0] for tensor in loaded}
        expected = {n: t for n, t in whole.items() if n.partition(".")[0] in parts | {"backbone"}}
        yield from exact_mapping(name, expected, loaded)


def _positions(context: Context) -> Iterator[Observation]:
    """Positions learnt at another image size: as official would run them, or refused by name as official does."""
    config = _RECIPE.config()
    larger = config.copy()
    larger.crops.global_crops_size = config.crops.global_crops_size + 3 * config.student.patch_size
    state = starting_state(context.reference, larger, "generic")
    flat = spellings.flat_backbone(state)
    try:
        context.subject.load_weights(config.copy(), copy.deepcopy(flat))
    except Exception as error:  # a refusal is an answer
        yield named("positions of another size", "pos_embed", error, context)
        return

    def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
        if stack is context.reference:
            found = stack.resized_positions(config, given["pos_embed"], larger.crops.global_crops_size)
        else:
            loaded = stack.load_weights(config.copy(), {**copy.deepcopy(flat), "pos_embed": given["pos_embed"]})
            found = canonical_mapping(loaded, stack_name(stack))["backbone.pos_embed"]
        return {"pos_embed": found}

    judge = Judge(context.reference, context.subject, tiers=("T0", "T2"))
    yield from judge("positions of another size", compute, {"pos_embed": flat["pos_embed"]})


def _refused(context: Context) -> Iterator[Observation]:
    """What does not fit is refused by its name; official's own loader leaves it out and says nothing."""
    config = unchunked()
    state = starting_state(context.reference, config, "generic")
    for what, damage, key in DAMAGES:
        flat = spellings.flat_backbone(state)
        damage(flat, key)
        yield answer(what, key, context, partial(context.subject.load_weights, config, flat))


_LOADER = ("dinov2/utils/utils.py:20-37", "dinov2/train/ssl_meta_arch.py:45-48")
CHECKS = (
    Check(
        "checkpoint.weights",
        "L2",
        "a network's weights in the spellings in which files hold them",
        _LOADER,
        ("load_weights",),
        _weights,
    ),
    Check(
        "checkpoint.positions",
        "L2",
        "weights that were trained at another image size",
        ("dinov2/models/vision_transformer.py:180-212",),
        ("load_weights",),
        _positions,
    ),
    Check(
        "checkpoint.weights_refused",
        "L2",
        "a missing, an extra, a misshapen and a transposed tensor of a file are refused by name",
        _LOADER,
        ("load_weights",),
        _refused,
    ),
)
