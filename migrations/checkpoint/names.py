"""The names of a checkpoint's networks, in the spelling of `port`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from migrations.checkpoint.errors import CheckpointError
from migrations.checkpoint.target import Layout, Target, build_target
from port.weights.names import HEADS, canonical

__all__ = ["MODULES", "Network", "is_network", "is_optimizer", "rename_network"]

MODULES: Mapping[str, str] = {"classhead": "dino_head", "patchhead": "ibot_head"}
"""The documented fork's names of a student's parts, and official's."""

_PARTS = ("backbone", *HEADS)


@dataclass(frozen=True)
class Network:
    """A student or teacher under its new names.

    Attributes:
        key: of the checkpoint, `student`.
        target: the network of `port` with these names.
        renamed: (old name, new name), in the order of the new state dict.
        canonical: canonical name of each old name, in the old order.
        state: under the new names, the same tensors.
    """

    key: str
    target: Target
    renamed: tuple[tuple[str, str], ...]
    canonical: Mapping[str, str]
    state: dict[str, Tensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By canonical name."""
        return dict(self.target.shapes)


def is_network(value: object) -> bool:
    """Whether a checkpoint's entry is the state dict of a backbone with its heads."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
        and any(canonical(name).startswith("backbone.") for name in value)
    )


def is_optimizer(value: object) -> bool:
    """Whether a checkpoint's entry is what `Optimizer.state_dict()` returns."""
    return isinstance(value, Mapping) and {"state", "param_groups"} <= set(value)


def rename_network(key: str, state: Mapping[str, Tensor], layout: Layout, modules: Mapping[str, str]) -> Network:
    """Give every tensor of a network its new name.

    Args:
        key: the checkpoint's name of the network, for messages.
        state: of a student or teacher, wrapped, chunked and spelled in any way.
        layout: of the new names.
        modules: new name by old name of a part, `{"classhead": "dino_head"}`.

    Raises:
        CheckpointError: a name or shape has no place in the network, or the network lacks one.
    """
    by_name: dict[str, str] = {}
    for old in state:
        part, dot, rest = canonical(old).partition(".")
        name = f"{modules.get(part, part)}{dot}{rest}"
        if name in by_name:
            raise CheckpointError(f"{key}: {by_name[name]} and {old} would both be called {name}")
        by_name[name] = old
    strays = sorted({name.partition(".")[0] for name in by_name} - set(_PARTS))
    if strays:
        raise CheckpointError(
            f"{key}: {', '.join(strays)} has no counterpart, expected parts called {', '.join((*_PARTS, *modules))}; "
            f"name it with --rename {strays[0]}=dino_head (or backbone, ibot_head)"
        )
    target = build_target({name: state[old] for name, old in by_name.items()}, layout, key)
    problems = [
        f"{key}: {old} {tuple(state[old].shape)} has no place in the network that the other shapes describe"
        for name, old in by_name.items()
        if name not in target.names
    ]
    problems += [f"{key}: {name} {target.shapes[name]} is missing" for name in target.names if name not in by_name]
    problems += [
        f"{key}: {old} is {tuple(state[old].shape)}, expected {target.shapes[name]} for {name}"
        for name, old in by_name.items()
        if name in target.shapes and tuple(state[old].shape) != target.shapes[name]
    ]
    if problems:
        raise CheckpointError(problems)
    renamed = tuple((by_name[name], new) for name, new in target.names.items())
    canonical_names = {old: name for name, old in by_name.items()}
    return Network(key, target, renamed, canonical_names, {new: state[old] for old, new in renamed})
