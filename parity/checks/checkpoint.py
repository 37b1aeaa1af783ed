"""Family `checkpoint`: official -> subject -> official, strictly: names, shapes, types, bits, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from parity.checks.base import Check, Context, NotRunError, Observation, Partly, describe_error
from parity.checks.gradients import starting_state
from parity.compare import exact, exact_mapping
from parity.errors import SubjectError
from parity.names import canonical, canonical_mapping
from parity.recipes import FEATURES, RECIPES, Recipe
from parity.results import Comparison
from parity.stack import capability, stack_name

__all__ = ["CHECKS", "DAMAGES", "answer", "held_by_training", "layouts", "named", "unchunked"]

_HELD = ("model", "exp_avg", "exp_avg_sq", "step")
_ITERATION = 41
_CHUNKS = (0, 2, 3)
"""Blocks in one list, in chunks that divide a depth of four, and in chunks that leave a shorter last one (Q38)."""


def layouts(recipe: Recipe) -> Iterator[tuple[str, DictConfig]]:
    """Yield the configuration with blocks in the recipe's chunks, and with a shared head in others too, by name."""
    own = recipe.config()
    for chunks in _CHUNKS if recipe.group == RECIPES[0].name else (own.student.block_chunks,):
        config = own.copy()
        config.student.block_chunks = chunks
        yield f"{chunks} chunks", config


def held_by_training(reference: Any, config: DictConfig) -> dict[str, dict[str, Tensor]]:
    """Return a state as training would hold it: nothing in it is zero, and no two tensors or steps are alike."""
    state = starting_state(reference, config, "generic")
    generator = torch.Generator().manual_seed(5)
    student = {canonical(n.removeprefix("student.")): t for n, t in state.items() if n.startswith("student.")}
    held: dict[str, dict[str, Tensor]] = {"model": state, "exp_avg": {}, "exp_avg_sq": {}, "step": {}}
    for number, (name, tensor) in enumerate(student.items()):
        held["exp_avg"][name] = 0.01 * torch.randn(tensor.shape, generator=generator)
        held["exp_avg_sq"][name] = 1e-4 * torch.rand(tensor.shape, generator=generator)
        # AdamW counts in each parameter; here they differ, so that a swap shows.
        held["step"][name] = torch.tensor(float(100 + number))
    return held


def _training(context: Context) -> Iterator[Observation]:
    """A training checkpoint into the subject, and from the subject into a fresh official model and optimizer."""
    for name, config in layouts(context.required_recipe()):
        yield from _there_and_back(context, name, config)


def _registers(context: Context) -> Iterator[Observation]:
    """The same with register tokens, where this official code has them."""
    if "registers" not in context.reference.features:
        raise NotRunError(
            f"{context.reference_info.version} lacks {FEATURES['registers']}; "
            "use --reference github, or the folder of a newer official commit"
        )
    recipe = next(recipe for recipe in RECIPES if recipe.since == "registers")
    for name, config in layouts(recipe):
        yield from _there_and_back(context, name, config)


def _there_and_back(context: Context, name: str, config: DictConfig) -> Iterator[Observation]:
    held = held_by_training(context.reference, config)
    checkpoint = context.reference.export_checkpoint(config, held, _ITERATION)
    loaded = _parts(context.subject.load_checkpoint(config.copy(), copy.deepcopy(checkpoint)), context.subject)
    if lacking := [part for part in _HELD if part not in loaded]:
        yield Partly(f"load_checkpoint returns no {', '.join(lacking)}")
    yield from _equal(f"{name}/loaded", held, loaded, lacking)
    if capability(context.subject, "export_checkpoint") is None:
        yield Partly("export_checkpoint is not offered: only what is loaded was compared")
        return
    exported = context.subject.export_checkpoint(config.copy(), copy.deepcopy(held), _ITERATION)
    yield from _exported(context, name, config, checkpoint, exported)


def _exported(
    context: Context, name: str, config: DictConfig, checkpoint: Mapping[str, Any], exported: Any
) -> Iterator[Comparison]:
    """Keys as official spells them; then official itself loads it, strictly, and holds what was given."""
    if not isinstance(exported, Mapping) or "model" not in exported:
        raise SubjectError(f"export_checkpoint returned {type(exported).__name__}, expected a mapping with 'model'")
    yield from exact_mapping(f"{name}/exported/model", checkpoint["model"], exported["model"])
    if "iteration" in exported:
        yield exact(f"{name}/exported/iteration", _ITERATION, exported["iteration"])
    try:
        back = context.reference.load_checkpoint(config, exported)
    except Exception as error:  # official's words about a checkpoint that does not fit
        yield exact(f"{name}/official loads it", "loads it", describe_error(error, "official"))
        return
    yield exact(f"{name}/official loads it", "loads it", "loads it")
    original = context.reference.load_checkpoint(config, checkpoint)
    lacking = [] if "optimizer" in exported else [part for part in _HELD if part != "model"]
    yield from _equal(f"{name}/back in official", _parts(original, None), _parts(back, None), lacking)


def _parts(held: Any, subject: object) -> dict[str, dict[str, Any]]:
    """Return the parts under canonical names.

    Raises:
        SubjectError: it is no mapping of mappings with `model`.
    """
    if not isinstance(held, Mapping) or not isinstance(held.get("model"), Mapping):
        raise SubjectError(f"load_checkpoint returned {type(held).__name__}, expected a mapping with 'model'")
    owner = "official" if subject is None else stack_name(subject)
    return {part: canonical_mapping(values, owner) for part, values in held.items() if part in _HELD}


def _equal(
    prefix: str, expected: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]], lacking: list[str]
) -> Iterator[Comparison]:
    for part in (part for part in _HELD if part not in lacking):
        yield from exact_mapping(f"{prefix}/{part}", canonical_mapping(expected[part], "official"), found[part])


Damage = Callable[[dict[str, Tensor], str], None]


def _drop(state: dict[str, Tensor], key: str) -> None:
    del state[key]


def _add(state: dict[str, Tensor], key: str) -> None:
    state[key] = torch.zeros(3)


def _shorten(state: dict[str, Tensor], key: str) -> None:
    state[key] = state[key][:-1].clone()


def _transpose(state: dict[str, Tensor], key: str) -> None:
    state[key] = state[key].transpose(0, 1).contiguous()


DAMAGES: tuple[tuple[str, Damage, str], ...] = (
    ("a missing key", _drop, "blocks.1.attn.proj.bias"),
    ("an extra key", _add, "blocks.1.attn.rotary"),
    ("a shorter tensor", _shorten, "blocks.0.norm1.weight"),
    ("a transposed weight", _transpose, "blocks.0.attn.qkv.weight"),
)


def _refused(context: Context) -> Iterator[Observation]:
    """What does not fit is refused by its name: a loader that is not strict goes on with weights that are not there."""
    config = unchunked()
    held = held_by_training(context.reference, config)
    for what, damage, key in DAMAGES:
        checkpoint = context.reference.export_checkpoint(config, held, _ITERATION)
        damage(checkpoint["model"], f"student.backbone.{key}")
        yield answer(what, key, context, partial(context.subject.load_checkpoint, config, checkpoint))


def unchunked() -> DictConfig:
    """The small default recipe with blocks in one list, as released files have them."""
    config = RECIPES[0].config()
    config.student.block_chunks = 0
    return config


def answer(name: str, key: str, context: Context, load: Callable[[], Any]) -> Comparison:
    """Whether loading ends in an error that names the key."""
    try:
        load()
    except Exception as error:  # the answer that is asked for
        return named(name, key, error, context)
    return exact(name, f"refused, naming {key}", "loaded without an error: the difference is swallowed")


def named(name: str, key: str, error: Exception, context: Context) -> Comparison:
    """Whether an error names the key: any other may have come of something else."""
    wanted = f"refused, naming {key}"
    said = " ".join(str(error).split())
    return exact(name, wanted, wanted if key in said else describe_error(error, stack_name(context.subject))[:300])


_OFFICIAL = ("dinov2/train/train.py:150-163", "dinov2/fsdp/__init__.py:85-116")
CHECKS = (
    Check(
        "checkpoint.training",
        "L3",
        "a training checkpoint from official and back: model, moments, steps, in every layout of blocks",
        _OFFICIAL,
        ("load_checkpoint",),
        _training,
        recipes="main",
    ),
    Check(
        "checkpoint.registers",
        "L3",
        "the same with register tokens",
        _OFFICIAL,
        ("load_checkpoint",),
        _registers,
    ),
    Check(
        "checkpoint.refused",
        "L3",
        "a missing, an extra, a misshapen and a transposed tensor of a training checkpoint are refused by name",
        _OFFICIAL,
        ("load_checkpoint",),
        _refused,
    ),
)
