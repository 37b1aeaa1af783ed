"""Signatures of rules that hold for every parameter of a kind: layers counted from another end, decay for all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.results import Finding

__all__ = ["attribute_rules"]

Rows = Mapping[str, Mapping[str, Any]]

_CLOSE = 1e-9


def attribute_rules(names: Sequence[str], official: Rows, mine: Rows, layerwise_decay: float) -> Iterator[Finding]:
    """Explain rows of one iteration, past warm-up.

    Args:
        names: parameters that both sides have.
        official: lr and weight decay by name.
        mine: likewise.
        layerwise_decay: factor from one layer to the layer below it.
    """
    yield from _shifted_layers(names, official, mine, layerwise_decay)
    yield from _decay_for_all(names, official, mine)


def _shifted_layers(names: Sequence[str], official: Rows, mine: Rows, decay: float) -> Iterator[Finding]:
    """All blocks off by one power of the decay, and nothing else."""
    blocks = [n for n in names if ".blocks." in n and official[n]["lr"]]
    others = [n for n in names if ".blocks." not in n]
    if not blocks or not 0 < decay < 1 or any(not _close(mine[n]["lr"], official[n]["lr"]) for n in others):
        return
    ratios = [mine[n]["lr"] / official[n]["lr"] for n in blocks]
    if min(ratios) <= 0 or not _close(min(ratios), max(ratios)) or _close(ratios[0], 1.0):
        return
    layers = -math.log(ratios[0]) / math.log(decay)
    if abs(layers - round(layers)) < 1e-6:
        yield Finding(
            "0007",
            f"every block has {ratios[0]:.6g} times official's learning rate, layerwise_decay {decay:g} to the power "
            f"{-round(layers)}: blocks are counted {abs(round(layers))} layer{'s' * (abs(round(layers)) > 1)} too "
            f"{'high' if layers > 0 else 'low'}; official's block i is layer i + 1",
            "migration 0007 (layer-wise lr decay): python -m parity explain 0007",
            "dinov2/utils/param_groups.py:40-48",
        )


def _decay_for_all(names: Sequence[str], official: Rows, mine: Rows) -> Iterator[Finding]:
    """One weight decay for every parameter, where official leaves some without."""
    exempt = [n for n in names if official[n]["weight_decay"] == 0]
    values = [mine[n]["weight_decay"] for n in names]
    if exempt and min(values) > 0 and _close(min(values), max(values)):
        yield Finding(
            "0006",
            f"every parameter has weight decay {values[0]:.4g}, so {len(exempt)} of {len(names)} decay that official "
            "leaves alone (biases, norms, LayerScale): the schedule is not multiplied by the group's wd_multiplier",
            "set weight_decay = wd * wd_multiplier for each group: python -m parity explain 0006",
            "dinov2/train/train.py:112-119",
        )


def _close(left: float, right: float) -> bool:
    return abs(left - right) <= _CLOSE * max(abs(left), abs(right))
