from __future__ import annotations

import numpy as np

from parity.attribution.schedules import attribute_schedules
from parity.results import Finding

Schedules = dict[str, np.ndarray]


def _official() -> Schedules:
    """A warm-up from 0, a rising weight decay and momentum, and a last layer frozen for three steps."""
    rate = np.concatenate((np.linspace(0.0, 4e-3, 5), np.linspace(4e-3, 1e-6, 15)))
    return {
        "lr": rate,
        "wd": np.linspace(0.04, 0.4, 20),
        "momentum": np.linspace(0.992, 1.0, 20),
        "last_layer_lr": np.where(np.arange(20) < 3, 0.0, rate),
    }


def _findings(**changes: np.ndarray) -> list[Finding]:
    return list(attribute_schedules(_official(), {**_official(), **changes}))


def test_equal_schedules_are_not_accused() -> None:
    """Neither official's own nor those that differ by rounding."""
    assert _findings() == []
    assert _findings(lr=_official()["lr"] * (1 + 1e-15)) == []


def test_a_last_layer_that_trains_from_the_start_is_named() -> None:
    """Three frozen steps, at up to 0.002 in the subject (the third of five warm-up steps)."""
    (finding,) = _findings(last_layer_lr=_official()["lr"])
    assert finding.id == "0007"
    assert "trains during the first 3 steps, at a rate of up to 0.002" in finding.sentence


def test_a_constant_factor_is_named() -> None:
    """A scaling rule with another batch size: the ratio is the cause, warm-up's 0 / 0 apart."""
    (finding,) = _findings(lr=_official()["lr"] * 1.5)
    assert finding.sentence == "lr is 1.5 times official's at every step"


def test_another_end_is_located() -> None:
    """Weight decay that parts at step 7."""
    other = _official()["wd"].copy()
    other[7:] = 0.25
    (finding,) = _findings(wd=other)
    assert finding.sentence.startswith("wd parts from official's at step 7: 0.25 against ")


def test_another_length_is_told_in_steps() -> None:
    """25 steps instead of 20 cannot be compared step by step."""
    (finding,) = _findings(momentum=np.linspace(0.992, 1.0, 25))
    assert finding.sentence.startswith("momentum has 25 steps, official 20")


def test_what_is_missing_is_not_explained() -> None:
    """A missing schedule is a failed comparison elsewhere, and a second freeze finding would repeat the first."""
    assert list(attribute_schedules(_official(), {})) == []
    shorter = _findings(last_layer_lr=np.ones(5))
    assert shorter == []
