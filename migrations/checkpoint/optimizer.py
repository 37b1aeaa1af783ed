"""An optimizer's state under new groups: every moment and step count follows its parameter's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from migrations.checkpoint.errors import CheckpointError

__all__ = ["Regrouped", "regroup", "ungroup"]

_SHARED = ("betas", "eps", "amsgrad", "maximize")
"""What all groups must agree in, since each parameter's update depends on it and no schedule sets it again."""


@dataclass(frozen=True)
class Regrouped:
    """An optimizer's state for `port`'s groups.

    Attributes:
        state: what `load_state_dict` takes.
        record: plain data from which `ungroup` makes the old state again.
        notes: what changed, a line each.
    """

    state: dict[str, Any]
    record: dict[str, Any]
    notes: tuple[str, ...]


def regroup(
    old: Mapping[str, Any], names: Sequence[Sequence[str]], groups: Sequence[Mapping[str, Any]], where: str
) -> Regrouped:
    """Move an AdamW's state into other groups.

    lr and weight decay of the new groups are those of the old first group times the group's multipliers, until
    `port.optim.apply_optim_scheduler` sets them at the next step.

    Args:
        old: from `Optimizer.state_dict()`.
        names: of the parameters of each old group.
        groups: the new ones, with names as `params`.
        where: the optimizer's name in the checkpoint.

    Raises:
        CheckpointError: the two hold different parameters, the old groups disagree in what no group of the new may
            differ in, or the state is not Adam's.
    """
    number = _numbers(old["param_groups"], names)
    new_names = [name for group in groups for name in group["params"]]
    fresh = [name for name in new_names if name not in number]
    if lost := sorted(set(number) - set(new_names)):
        raise CheckpointError(f"{where}: {', '.join(lost[:3])} is in no new group, expected all {len(number)}")
    if strays := sorted(set(old["state"]) - set(number.values()), key=str):
        raise CheckpointError(f"{where}: state of parameters {strays[:3]}, which no group holds")
    _check_adam(old, where)
    hyper = _shared(old["param_groups"], where)
    state: dict[int, Any] = {}
    new_groups, position = [], 0
    for group in groups:
        params = list(range(position, position + len(group["params"])))
        position += len(params)
        state.update(
            {
                n: old["state"][number[name]]
                for n, name in zip(params, group["params"], strict=True)
                if name in number and number[name] in old["state"]
            }
        )
        new_groups.append(_group(group, params, hyper, old["param_groups"][0]))
    record = {
        "param_groups": [dict(group) for group in old["param_groups"]],
        "names": [list(its) for its in names],
        "new_names": [list(group["params"]) for group in groups],
        "state_order": list(old["state"]),
        "other": {key: value for key, value in old.items() if key not in ("state", "param_groups")},
    }
    notes = [f"{where}: {len(state)} parameters keep their moments and steps, in {len(new_groups)} groups"]
    notes += [f"{where}: {name} starts anew, the old optimizer did not hold it" for name in fresh]
    if empty := [name for name, n in number.items() if n not in old["state"]]:
        notes.append(f"{where}: {len(empty)} parameters had no state yet ({empty[0]} …)")
    if dropped := sorted({key for group in old["param_groups"] for key in group} - set(new_groups[0])):
        notes.append(f"{where}: keys of the old groups that go: {', '.join(dropped)}")
    return Regrouped({"state": state, "param_groups": new_groups}, record, tuple(notes))


def ungroup(new: Mapping[str, Any], record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Move a state back into the groups that a record describes, with the hyperparameters that they had.

    Raises:
        CheckpointError: the groups are not those that `regroup` made.
    """
    sizes, expected = [len(g["params"]) for g in new["param_groups"]], [len(its) for its in record["new_names"]]
    if sizes != expected:
        raise CheckpointError(
            f"{where}: groups of {' + '.join(map(str, sizes))} parameters, the record says "
            f"{' + '.join(map(str, expected))}; the optimizer was regrouped since, and has no way back"
        )
    number = _numbers(new["param_groups"], record["new_names"])
    old_number = _numbers(record["param_groups"], record["names"])
    found = {n: new["state"][number[name]] for name, n in old_number.items() if number[name] in new["state"]}
    order = [n for n in record["state_order"] if n in found]
    order += [n for n in found if n not in set(order)]
    return {
        "state": {n: found[n] for n in order},
        "param_groups": [dict(group) for group in record["param_groups"]],
        **record["other"],
    }


def _numbers(groups: Sequence[Mapping[str, Any]], names: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return each parameter's number by its name."""
    pairs = zip(groups, names, strict=True)
    return {name: n for group, its in pairs for n, name in zip(group["params"], its, strict=True)}


def _check_adam(old: Mapping[str, Any], where: str) -> None:
    known = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    for number, entry in old["state"].items():
        if not isinstance(entry, Mapping) or not {"step", "exp_avg", "exp_avg_sq"} <= set(entry) <= known:
            held = ", ".join(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
            raise CheckpointError(
                f"{where}: state of parameter {number} holds {held}, expected step, exp_avg and exp_avg_sq: "
                "only Adam's and AdamW's state can be taken over"
            )


def _shared(groups: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in _SHARED:
        values = [group[key] for group in groups if key in group]
        if any(value != values[0] for value in values):
            raise CheckpointError(f"{where}: groups differ in {key} ({values}), the new groups share one")
        if values:
            found[key] = tuple(values[0]) if key == "betas" else values[0]
    return found


def _group(
    group: Mapping[str, Any], params: list[int], hyper: Mapping[str, Any], first: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a group as `AdamW.state_dict()` would, in its own order of keys."""
    defaults = torch.optim.AdamW([torch.zeros(1)]).state_dict()["param_groups"][0]
    own = {key: value for key, value in group.items() if key != "params"}
    lr, wd = float(_plain(first["lr"])), float(_plain(first.get("weight_decay", 0.0)))
    rates = {"lr": lr * group["lr_multiplier"], "weight_decay": wd * group["wd_multiplier"]}
    merged = {**defaults, **hyper, **own, **rates}
    return {**{key: value for key, value in merged.items() if key != "params"}, "params": params}


def _plain(value: object) -> Any:
    return value.item() if isinstance(value, Tensor) else value
