"""A fork's checkpoint to `port`'s names and groups, and back: from dict to dict, nothing is read or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from migrations.checkpoint.arguments import change_args, restore_args
from migrations.checkpoint.errors import CheckpointError
from migrations.checkpoint.names import MODULES, Network, is_network, is_optimizer, rename_network
from migrations.checkpoint.old_groups import names_of_groups
from migrations.checkpoint.optimizer import Regrouped, regroup, ungroup
from migrations.checkpoint.target import Layout, groups_of
from port.weights.names import canonical

__all__ = ["RECORD", "Conversion", "Settings", "downgrade", "upgrade"]

RECORD = "parity_migration"
"""Key of a converted checkpoint: plain data that `downgrade` needs."""

Checkpoint = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a conversion is asked for.

    Attributes:
        layout: of the new names.
        modules: new name by old name of a network's part.
        layerwise_decay: of the new groups, `optim.layerwise_decay`.
        patch_embed_lr_mult: of the new groups, `optim.patch_embed_lr_mult`.
        builder: that made the old groups; empty to find out.
        frozen: canonical names that the old optimizer did not hold.
        args: new flags.
    """

    layout: Layout = field(default_factory=Layout)
    modules: Mapping[str, str] = field(default_factory=lambda: dict(MODULES))
    layerwise_decay: float = 0.9
    patch_embed_lr_mult: float = 0.2
    builder: str = ""
    frozen: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        checkpoint: the new one; it shares its tensors with the old.
        renamed: (network, old name, new name, shape) of every tensor of a network.
        notes: what else changed, a line each.
        kept: keys that are as they were.
        changed: whether anything is different.
    """

    checkpoint: dict[str, Any]
    renamed: tuple[tuple[str, str, str, tuple[int, ...]], ...]
    notes: tuple[str, ...]
    kept: tuple[str, ...]
    changed: bool


def upgrade(old: Checkpoint, settings: Settings) -> Conversion:
    """Rename networks, regroup the optimizer, and change flags.

    Raises:
        CheckpointError: anything has no certain place; all of a network's problems are named at once.
    """
    if RECORD in old:
        raise CheckpointError("it was converted already; --downgrade makes the fork's own again")
    networks = {
        key: rename_network(key, value, settings.layout, settings.modules)
        for key, value in old.items()
        if is_network(value)
    }
    if not networks:
        raise CheckpointError(
            f"no student or teacher in it: none of {', '.join(map(str, old))} is a state dict with names like "
            "'backbone.cls_token'; expected {'student': …, 'teacher': …, 'optimizer': …, 'args': …}"
        )
    optimizers = {key: value for key, value in old.items() if is_optimizer(value)}
    regrouped, builder_notes = _regroup(optimizers, networks, settings) if optimizers else ({}, [])
    args = change_args(old["args"], settings.args) if "args" in old else None
    if settings.args and args is None:
        raise CheckpointError("--set: it holds no args")
    parts: dict[str, Any] = {key: network.state for key, network in networks.items()}
    parts |= {key: one.state for key, one in regrouped.items()}
    if args is not None:
        parts["args"] = args.args
    record: dict[str, Any] = {
        "schema": 1,
        "networks": {key: _network_record(old[key], network) for key, network in networks.items()},
        "optimizers": {key: one.record for key, one in regrouped.items()},
        "args": args.record if args else None,
    }
    notes = [*builder_notes, *(note for one in regrouped.values() for note in one.notes), *(args.notes if args else ())]
    kept = tuple(str(key) for key in old if key not in parts or (key == "args" and not (args and args.notes)))
    return Conversion(
        checkpoint={**{key: parts.get(key, value) for key, value in old.items()}, RECORD: record},
        renamed=tuple(_rows(networks)),
        notes=tuple(notes),
        kept=kept,
        changed=_differs(networks, regrouped, bool(args and args.notes)),
    )


def downgrade(new: Checkpoint) -> Conversion:
    """Undo `upgrade`, also after training went on: names, groups and flags are the old, tensors are the new.

    Raises:
        CheckpointError: it was not made by `upgrade`, or its names or groups changed since.
    """
    record = new.get(RECORD)
    if not isinstance(record, Mapping):
        raise CheckpointError(
            f"it has no {RECORD!r}, which tells how the fork called and grouped everything; only what this command "
            "converted can be converted back"
        )
    result = {key: value for key, value in new.items() if key != RECORD}
    rows, notes = [], []
    for key, pairs in record["networks"].items():
        names = {new_name: old_name for old_name, new_name in pairs}
        if set(names) != set(new[key]):
            strays = sorted(set(names) ^ set(new[key]))
            raise CheckpointError(f"{key}: {', '.join(strays[:3])}: the names are not those that it was converted to")
        result[key] = {old_name: new[key][new_name] for old_name, new_name in pairs}
        rows += [(key, name, old_name, tuple(new[key][name].shape)) for name, old_name in names.items()]
    for key, its in record["optimizers"].items():
        result[key] = ungroup(new[key], its, key)
        notes.append(f"{key}: {len(result[key]['state'])} parameters keep their moments and steps, in the old groups")
    if record["args"] is not None and "args" in new:
        result["args"] = restore_args(new["args"], record["args"])
        notes += [f"args.{name} = {value!r} comes back" for name, value in record["args"]["removed"].items()]
        notes += [f"args.{name} goes" for name in record["args"]["added"]]
    touched = {*record["networks"], *record["optimizers"], "args"}
    kept = tuple(str(key) for key in result if key not in touched)
    return Conversion(result, tuple(rows), tuple(notes), kept, True)


def _regroup(
    optimizers: Checkpoint, networks: Mapping[str, Network], settings: Settings
) -> tuple[dict[str, Regrouped], list[str]]:
    """Regroup the optimizer whose groups hold the student's parameters; others are left as they are."""
    trained = [network for key, network in networks.items() if "teacher" not in key]
    if len(trained) != 1:
        raise CheckpointError(
            f"{', '.join(optimizers)}: whose parameters? expected one student, found {', '.join(networks)}"
        )
    student = trained[0]
    parameters = set(student.target.parameters)
    if unknown := [name for name in settings.frozen if name not in parameters]:
        raise CheckpointError(
            f"--frozen {unknown[0]}: {student.key} has no such parameter, expected e.g. backbone.norm.bias"
        )
    stored = [n for n in student.canonical.values() if n in parameters and n not in settings.frozen]
    groups = groups_of(student.target, settings.layerwise_decay, settings.patch_embed_lr_mult)
    rename = partial(_canonical, modules=settings.modules)
    new = [list(group["params"]) for group in groups]
    found: dict[str, Regrouped] = {}
    notes: list[str] = []
    reasons: list[str] = []
    for key, value in optimizers.items():
        try:
            names, how = names_of_groups(value, stored, student.shapes, key, settings.builder, rename, new)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        notes.append(f"{key}: its {len(names)} groups are numbered as by the builder {how}, all shapes agree")
        found[key] = regroup(value, names, groups, key)
    if not found:
        raise CheckpointError(reasons)
    if len(found) > 1:
        raise CheckpointError(f"{' and '.join(found)} both fit {student.key}; convert them one at a time")
    notes += [
        f"{key}: kept as it is, its groups are not those of {student.key}" for key in optimizers if key not in found
    ]
    return found, notes


def _canonical(name: str, modules: Mapping[str, str]) -> str:
    part, dot, rest = canonical(name).partition(".")
    return f"{modules.get(part, part)}{dot}{rest}"


def _network_record(state: Mapping[str, Any], network: Network) -> list[tuple[str, str]]:
    new = dict(network.renamed)
    return [(old, new[old]) for old in state]


def _rows(networks: Mapping[str, Network]) -> list[tuple[str, str, str, tuple[int, ...]]]:
    return [
        (key, old, new, tuple(network.state[new].shape))
        for key, network in networks.items()
        for old, new in network.renamed
    ]


def _differs(networks: Mapping[str, Network], regrouped: Mapping[str, Regrouped], args: bool) -> bool:
    names = any(old != new for network in networks.values() for old, new in network.renamed)
    groups = any(one.record["names"] != one.record["new_names"] for one in regrouped.values())
    return names or groups or args
