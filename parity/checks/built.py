"""Family `modules`: what is built: every architecture by name, and the teacher that training starts with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from parity.adapters.official_build import RealNumbers
from parity.checks.base import Check, Context, NotRunError, Observation
from parity.compare import exact, exact_mapping
from parity.names import canonical, canonical_mapping
from parity.recipes import with_architecture
from parity.seeding import seeded
from parity.stack import claims_bitwise, stack_name

__all__ = ["ARCHITECTURES", "CHECKS"]

ARCHITECTURES = ("vit_small", "vit_base", "vit_large", "vit_giant2")
"""Official's, by the name that `student.arch` gives them."""

_FEED_FORWARD = ("mlp", "swiglufused", "identity")


def _architectures(context: Context) -> Iterator[Observation]:
    """Names and shapes of every parameter, at full size: nothing is allocated, on the meta device."""
    config = context.required_recipe().config()
    cases = [(arch, config.student.ffn_layer) for arch in ARCHITECTURES]
    cases += [(ARCHITECTURES[0], layer) for layer in _FEED_FORWARD if layer != config.student.ffn_layer]
    for arch, layer in cases:
        config.student.arch, config.student.ffn_layer = arch, layer
        with_architecture(config)
        reference = _shapes(_on_meta(context.reference, config))
        try:
            subject = _on_meta(context.subject, config)
        except (RuntimeError, NotImplementedError) as error:
            name = stack_name(context.subject)
            raise NotRunError(f"{name}: {arch} cannot be built on torch's meta device: {error!s:.200}") from error
        yield from exact_mapping(f"architectures/{arch}, {layer}", reference, _shapes(subject))


def _on_meta(stack: Any, config: DictConfig) -> nn.Module:
    with torch.device("meta"), RealNumbers():
        module: nn.Module = stack.build_backbone(config.copy())
    return module


def _shapes(module: nn.Module) -> dict[str, str]:
    """Return shapes as text by canonical name, and how many heads attention has, which no shape tells."""
    found = {canonical(name): str(tuple(value.shape)) for name, value in module.state_dict().items()}
    counts = {getattr(part, "num_heads", None) for part in module.modules()}
    return {**found, "attention heads": str(sorted(count for count in counts if isinstance(count, int)))}


def _start(context: Context) -> Iterator[Observation]:
    """Training begins with a teacher that is a copy of the student, tensor by tensor; values too where claimed."""
    config = context.required_recipe().config()
    states = []
    for stack in (context.reference, context.subject):
        seeded(12)
        states.append(canonical_mapping(stack.start_state(config.copy(), 12), stack_name(stack)))
    reference, subject = states
    yield from exact_mapping("start/teacher is the student", _copied(reference), _copied(subject))
    if claims_bitwise(context.subject):
        for name in reference.keys() & subject.keys():
            yield exact(f"start/{name}", reference[name], subject[name])


def _copied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return for each tensor of the teacher whether it is the student's, in words."""
    found = {}
    for name, value in state.items():
        if name.startswith("teacher."):
            twin = state.get(name.replace("teacher.", "student.", 1))
            found[name] = "equal" if twin is not None and torch.equal(value, twin) else "another value"
    return found


CHECKS = (
    Check(
        "modules.architectures",
        "L2",
        "names and shapes of ViT-S, -B, -L and -g at full size, and of every feed-forward layer",
        ("dinov2/models/vision_transformer.py:46-171, 341-395", "dinov2/models/__init__.py:15-43"),
        ("build_backbone",),
        _architectures,
        recipes="main",
    ),
    Check(
        "modules.start",
        "L2",
        "the state that training begins with: the teacher is a copy of the student",
        ("dinov2/train/ssl_meta_arch.py:390-403",),
        ("start_state",),
        _start,
        recipes="main",
    ),
)
