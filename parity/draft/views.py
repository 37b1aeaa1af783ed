"""Wires what makes crops of an image."""

from __future__ import annotations

import ast

from parity.draft.roles import SETTINGS, UnboundError, bind
from parity.draft.wiring import Found, Gap, Wired, call_lines, imported, place

__all__ = ["wire_augment"]

_KEYS = frozenset({"global_crops", "local_crops"})


def wire_augment(found: Found) -> Wired | Gap:
    """`augment`: the fork's augmentation class, built from the configuration and called with an image."""
    augmentation = found.best("augmentation")
    if augmentation is None:
        return Gap("no augmentation was found (DataAugmentationDINO)")
    call = augmentation.parameters("__call__")
    if call is None or sum(parameter.required for parameter in call) > 1:
        return Gap(f"{place(augmentation)} cannot be called with an image alone", (place(augmentation),))
    try:
        arguments = bind(augmentation.parameters() or (), SETTINGS)
    except UnboundError as error:
        return Gap(f"{place(augmentation)}: {error}", (place(augmentation),))
    lines = (
        imported(augmentation),
        *call_lines(f"augmentation = {augmentation.name}", arguments),
        "return augmentation(image)",
    )
    named = {node.value for node in ast.walk(augmentation.node) if isinstance(node, ast.Constant)}
    if not named >= _KEYS:
        reason = f"{place(augmentation)} names no {' and '.join(sorted(_KEYS - named))}: map what it returns to these"
        return Gap(reason, (place(augmentation),), lines)
    return Wired(lines, (place(augmentation, "__call__"),), ("built anew for each image",))
