"""Family `modules`: what a finished backbone is asked for, apart from training: features of several blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from parity import states
from parity.checks.base import Check, Context, NotRunError, Observation
from parity.checks.modules import generic_weights, load_weights
from parity.judge import Inputs, Judge
from parity.stack import stack_name

__all__ = ["CHECKS"]

_CASES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("last block", {}),
    ("last two blocks, no norm", {"n": 2, "norm": False}),
    ("blocks 0 and 2, as maps, with CLS token", {"n": [0, 2], "reshape": True, "return_class_token": True}),
)


def _features(context: Context) -> Iterator[Observation]:
    """`get_intermediate_layers` of an oblong image, with the blocks in chunks and in one list; and a plain call."""
    config = context.required_recipe().config()
    if not hasattr(context.subject.build_backbone(config), "get_intermediate_layers"):
        raise NotRunError(f"the backbone of {stack_name(context.subject)} has no get_intermediate_layers")
    patch, side = config.student.patch_size, config.crops.global_crops_size
    given = {
        **generic_weights(context, "backbone"),
        "crop": states.images((2, 3, side, side - 2 * patch), 6),
    }
    for chunks in (0, config.student.block_chunks):
        config.student.block_chunks = chunks

        def compute(stack: Any, given: Inputs) -> dict[str, Tensor]:
            return _asked(stack, config, given)

        yield from Judge(context.reference, context.subject, failed=context.failed, memory=context.memory)(
            f"features/{chunks or 'no'} chunks", compute, given
        )


def _asked(stack: Any, config: DictConfig, given: Inputs) -> dict[str, Tensor]:
    """Return the result of each case by name; tuples are taken apart."""
    module = stack.build_backbone(config).to(given["crop"].dtype).eval()
    load_weights(module, {k.removeprefix("weight "): v for k, v in given.items()}, stack_name(stack))
    found = {"CLS token": module(given["crop"])}
    for name, options in _CASES:
        for i, block in enumerate(module.get_intermediate_layers(given["crop"], **options)):
            parts = zip(("patches", "CLS token"), block if isinstance(block, tuple) else (block,), strict=False)
            found |= {f"{name}/{i}/{part}": value for part, value in parts}
    return {name: value.detach() for name, value in found.items()}


CHECKS = (
    Check(
        "modules.features",
        "L2",
        "features of several blocks, as evaluation asks for them",
        ("dinov2/models/vision_transformer.py:271-330",),
        ("build_backbone",),
        _features,
        recipes="main",
    ),
)
