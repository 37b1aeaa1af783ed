"""Signatures in the schedules: no freeze of the last layer, another scaling rule, other lengths and ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from parity.results import Finding

__all__ = ["attribute_schedules"]

_CLOSE = 1e-9


def attribute_schedules(reference: Mapping[str, np.ndarray], subject: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Explain schedules that differ from official's.

    Args:
        reference: official values per iteration, by name.
        subject: the subject's; a name may be missing.
    """
    shared = {n: (np.asarray(reference[n]), np.asarray(subject[n])) for n in reference if n in subject}
    yield from _freeze(shared)
    for name, (official, mine) in shared.items():
        if name == "last_layer_lr":
            continue
        if official.shape != mine.shape:
            yield Finding(
                "",
                f"{name} has {mine.size} steps, official {official.size}: epochs * OFFICIAL_EPOCH_LENGTH "
                "(an epoch is 1250 steps whatever the data set, Q57)",
                "take total and warm-up lengths from the configuration as official does",
                "dinov2/train/train.py:64-90",
            )
        elif not np.allclose(official, mine, rtol=_CLOSE, atol=0.0):
            yield _values(name, official, mine)


def _freeze(shared: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[Finding]:
    if "last_layer_lr" not in shared:
        return
    official, mine = shared["last_layer_lr"]
    frozen = int(np.argmax(official > 0))
    if mine.shape == official.shape and (mine[:frozen] > 0).any():
        yield Finding(
            "0007",
            f"the last layer trains during the first {frozen} steps, at a rate of up to {mine[:frozen].max():.3g}; "
            "official holds its rate at 0 there",
            "give `last_layer` parameters a group of their own, with rate 0 for freeze_last_layer_epochs",
            "dinov2/train/train.py:98-100, 115-119",
        )


def _values(name: str, official: np.ndarray, mine: np.ndarray) -> Finding:
    """A constant factor, or the first step that differs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mine / official
    finite = ratio[np.isfinite(ratio)]
    if finite.size and np.allclose(finite, finite[0], rtol=1e-6):
        what = f"{name} is {finite[0]:.6g} times official's at every step"
    else:
        step = int(np.argmax(~np.isclose(official, mine, rtol=_CLOSE, atol=0.0)))
        what = f"{name} parts from official's at step {step}: {mine[step]:.6g} against {official[step]:.6g}"
    return Finding(
        "",
        what,
        "compare warm-up, end value and scaling rule with the official configuration",
        "dinov2/train/train.py:63-109, dinov2/utils/utils.py:69-87",
    )
