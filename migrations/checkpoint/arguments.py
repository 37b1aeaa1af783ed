"""The flags that a checkpoint keeps in `args`: those that official code does not know go, each with a line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from migrations.checkpoint.errors import CheckpointError

__all__ = ["REMOVED", "ArgsChange", "change_args", "restore_args"]

REMOVED: Mapping[str, str] = {
    "token_mask_ratio": (
        "not converted: official masks blocks, a ratio drawn between mask_ratio_min and mask_ratio_max, in a share "
        "mask_sample_probability of the crops; choose them, --set mask_ratio_min=0.1 (official: 0.1, 0.5, 0.5)"
    ),
    "clustering_mode": "only the masked tokens are left to cluster",
}
"""Flags that go with migrations 0003 and 0004, and what to know about each."""


@dataclass(frozen=True)
class ArgsChange:
    """New arguments, of the type of the old, and what changed.

    Attributes:
        args: the new ones.
        record: plain data from which `restore_args` makes the old again.
        notes: a line each.
    """

    args: Any
    record: dict[str, Any]
    notes: tuple[str, ...]


def change_args(args: object, given: Mapping[str, Any]) -> ArgsChange:
    """Remove flags that go, and set those that are given.

    Args:
        args: an `argparse.Namespace` or a mapping.
        given: new values by flag.

    Raises:
        CheckpointError: `args` is of another type.
    """
    old = _values(args)
    removed = {name: value for name, value in old.items() if name in REMOVED and name not in given}
    changed = {name: old[name] for name in given if name in old}
    new = {**{name: value for name, value in old.items() if name not in removed}, **given}
    notes = [f"args.{name} = {value!r} goes: {REMOVED[name]}" for name, value in removed.items()]
    if old.get("clustering_mode", "masked") != "masked":
        notes.append(
            f"args.clustering_mode was {old['clustering_mode']!r}: the run's prototypes were not trained on masked "
            "tokens; going on from it is another experiment"
        )
    notes += [
        f"args.{name} = {value!r} is set" + (f", was {old[name]!r}" if name in old else "")
        for name, value in given.items()
    ]
    record = {
        "removed": removed,
        "changed": changed,
        "added": [name for name in given if name not in old],
        "order": list(old),
    }
    return ArgsChange(_like(args, new), record, tuple(notes))


def restore_args(args: object, record: Mapping[str, Any]) -> Any:
    """Undo `change_args`; flags that came later stay."""
    values = {name: value for name, value in _values(args).items() if name not in record["added"]}
    values.update(record["removed"])
    values.update(record["changed"])
    order = [name for name in record["order"] if name in values]
    return _like(args, {name: values[name] for name in [*order, *(name for name in values if name not in order)]})


def _values(args: object) -> dict[str, Any]:
    if isinstance(args, argparse.Namespace):
        return dict(vars(args))
    if isinstance(args, Mapping):
        return dict(args)
    raise CheckpointError(f"args is {type(args).__name__}, expected argparse.Namespace or a dict")


def _like(args: object, values: dict[str, Any]) -> Any:
    if not isinstance(args, argparse.Namespace):
        return values
    namespace = argparse.Namespace()
    vars(namespace).update(values)
    return namespace
