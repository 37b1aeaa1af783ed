"""Each arm at each stage, and what doubling a size costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.arms import ARMS, STAGES, missing
from bench.conftest import CLOCK, Measure
from bench.figures import Measured
from bench.settings import Settings

MEASURED: dict[tuple[str, str], Measured] = {}
DOUBLED = ("prototypes", "batch", "local_crops")


@pytest.mark.usefixtures("agreement")
@pytest.mark.parametrize("arm", list(ARMS))
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.benchmark(timer=CLOCK)
def test_arm(benchmark: Any, measure: Measure, settings: Settings, arm: str, stage: str) -> None:
    """Time an arm up to a stage; three-view comes first, as the others are compared with it."""
    if reason := missing(arm, settings):
        pytest.skip(reason)
    benchmark.group = stage
    measured = measure(f"arm {arm}, {stage}", arm, stage)
    if arm == "packed" and ("unified", stage) in MEASURED:
        # The same products; torch does not count those inside the variable-length kernel.
        measured = replace(measured, flops=MEASURED["unified", stage].flops)
    MEASURED[arm, stage] = measured
    benchmark.extra_info.update(kind="arm", what=f"{stage} {arm}", arm=arm, stage=stage)
    benchmark.extra_info.update(measured.extra_info(MEASURED.get(("three-view", stage))))


@pytest.mark.parametrize("size", ["base", *DOUBLED])
@pytest.mark.benchmark(timer=CLOCK, group="unified, whole step, one size doubled")
def test_doubling(benchmark: Any, measure: Measure, settings: Settings, size: str) -> None:
    """Time the unified arm's whole step at half the run's batch, and with one of its sizes twice as large."""
    base = replace(settings, batch=max(settings.batch // 2, 2))
    chosen = base if size == "base" else replace(base, **{size: 2 * getattr(base, size)})
    measured = measure(f"unified step, {size}", "unified", "step", chosen=chosen)
    benchmark.extra_info.update(kind="double", what=size, **measured.extra_info(None))
