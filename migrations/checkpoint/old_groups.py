"""Which parameter each number of an old optimizer's state means.

`Optimizer.state_dict()` numbers parameters in the order of the groups and keeps no names. They are those of the builder
that made the groups: every builder that is known here lists its names, and those whose group sizes and shapes fit the
state are left. One must be; where two differ, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from migrations.checkpoint.errors import CheckpointError

__all__ = ["BUILDERS", "Shapes", "names_of_groups"]

Shapes = Mapping[str, tuple[int, ...]]
Names = list[list[str]]


def _two_groups(names: Sequence[str], shapes: Shapes) -> Names:
    """A bias or a tensor of one dimension is not regularised, the rest is; each in the order of the names."""
    spared = [name for name in names if name.endswith(".bias") or len(shapes[name]) == 1]
    return [[name for name in names if name not in set(spared)], spared]


def _by_module(names: Sequence[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(name.partition(".")[0], []).append(name)
    return parts


def _two_per_module(names: Sequence[str], shapes: Shapes) -> Names:
    parts = _by_module(names)
    order = [part for part in ("backbone", "dino_head", "ibot_head") if part in parts]
    return [group for part in order for group in _two_groups(parts[part], shapes)]


def _two_per_module_as_stored(names: Sequence[str], shapes: Shapes) -> Names:
    return [group for part in _by_module(names).values() for group in _two_groups(part, shapes)]


def _one_per_parameter(names: Sequence[str], shapes: Shapes) -> Names:
    return [[name] for name in names]


def _one_group(names: Sequence[str], shapes: Shapes) -> Names:
    return [list(names)]


BUILDERS: Mapping[str, Callable[[Sequence[str], Shapes], Names]] = {
    "two-per-module": _two_per_module,
    "two-per-module-as-stored": _two_per_module_as_stored,
    "two": _two_groups,
    "one-per-parameter": _one_per_parameter,
    "one": _one_group,
}
"""How groups may have been built: two per module (backbone, classhead, patchhead; or in the order of the state dict),
regularised first; two in all; one for each parameter; one in all."""


def names_of_groups(
    optimizer: Mapping[str, Any],
    stored: Sequence[str],
    shapes: Shapes,
    where: str,
    builder: str = "",
    rename: Callable[[str], str] = str,
    new: Names | None = None,
) -> tuple[Names, str]:
    """Return the names of every group's parameters, and how they were found.

    Groups that carry names (`param_names`, of an optimizer over `named_parameters()`) say it themselves.

    Args:
        optimizer: from `Optimizer.state_dict()`.
        stored: canonical names of the trainable parameters, in the order of the old state dict, which is that of
            `named_parameters()` but for buffers.
        shapes: by canonical name.
        where: the optimizer's name in the checkpoint.
        builder: one of `BUILDERS`; empty to try all.
        rename: from a name of the old model to a canonical one.
        new: names of the groups that the optimizer is to have, which it may have already.

    Raises:
        CheckpointError: no builder fits, or two that fit disagree.
    """
    groups = optimizer["param_groups"]
    own = [[rename(name) for name in group.get("param_names", ())] for group in groups]
    if sorted(name for group in own for name in group) == sorted(stored) and not misfit(optimizer, own, shapes):
        return own, "param_names"
    tried = {builder: BUILDERS[builder]} if builder else BUILDERS
    candidates = {name: build(stored, shapes) for name, build in tried.items()}
    candidates |= {"port": new} if new is not None and not builder else {}
    misfits = {name: misfit(optimizer, names, shapes) for name, names in candidates.items()}
    fitting = [name for name, reason in misfits.items() if not reason]
    if not fitting:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in misfits.items())
        raise CheckpointError(
            f"{where}: its groups hold {' + '.join(str(len(group['params'])) for group in groups)} parameters, the "
            f"network has {len(stored)}, and no known builder fits ({reasons}); parameters that were frozen are named "
            "with --frozen NAME"
        )
    if any(candidates[name] != candidates[fitting[0]] for name in fitting[1:]):
        raise CheckpointError(
            f"{where}: the shapes fit the builders {' and '.join(fitting)}, which number parameters differently; say "
            "which built the groups, --groups NAME"
        )
    return candidates[fitting[0]], fitting[0]


def misfit(optimizer: Mapping[str, Any], names: Names, shapes: Shapes) -> str:
    """Return why groups of these names are not an optimizer's, or nothing where counts and all shapes agree."""
    groups, state = optimizer["param_groups"], optimizer["state"]
    sizes, expected = [len(group["params"]) for group in groups], [len(group) for group in names]
    if sizes != expected:
        return f"expects {' + '.join(map(str, expected))}" if len(expected) < 9 else f"expects {len(expected)} groups"
    for group, its in zip(groups, names, strict=True):
        for number, name in zip(group["params"], its, strict=True):
            for key, value in state.get(number, {}).items():
                # A scalar is a count of steps, whatever it is called.
                if isinstance(value, Tensor) and value.ndim and tuple(value.shape) != shapes[name]:
                    return f"{key} {number} is {tuple(value.shape)}, {name} {shapes[name]}"
    return ""
