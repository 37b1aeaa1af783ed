"""Each arm at each stage, and what doubling a size costs; arms of a stage, and the sizes, are measured in turns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from bench.arms import ARMS, STAGES, missing
from bench.conftest import CLOCK, Measure
from bench.settings import Settings
from bench.turns import Contender
from bench.worker import Worker, time_arm

DOUBLED = ("prototypes", "batch", "local_crops")


@pytest.mark.usefixtures("agreement")
@pytest.mark.parametrize("arm", list(ARMS))
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.benchmark(timer=CLOCK)
def test_arm(benchmark: Any, measure: Measure, settings: Settings, arm: str, stage: str) -> None:
    """Time an arm up to a stage, in turns with the others that are selected."""
    if reason := missing(arm, settings):
        pytest.skip(reason)
    benchmark.group = stage

    def contender(name: str) -> Contender | None:
        worker = partial(Worker, time_arm, f"arm {name}, {stage}", settings, name, stage)
        return None if missing(name, settings) else Contender(worker, settings.batch)

    found = measure("arm", contender)
    measured = found[arm]
    if arm == "packed" and "unified" in found:
        # The same products; torch does not count those inside the variable-length kernel.
        measured = replace(measured, flops=found["unified"].flops)
    official = None if arm == "official" else found.get("official")
    benchmark.extra_info.update(kind="arm", what=f"{stage} {arm}", arm=arm, stage=stage)
    benchmark.extra_info.update(measured.extra_info(found.get("three-view"), official))


@pytest.mark.parametrize("size", ["base", *DOUBLED])
@pytest.mark.benchmark(timer=CLOCK, group="unified, whole step, one size doubled")
def test_doubling(benchmark: Any, measure: Measure, settings: Settings, size: str) -> None:
    """Time the unified arm's whole step at half the run's batch, and with one of its sizes twice as large."""
    base = replace(settings, batch=max(settings.batch // 2, 2))

    def contender(name: str) -> Contender:
        chosen = base if name == "base" else replace(base, **{name: 2 * getattr(base, name)})
        worker = partial(Worker, time_arm, f"unified step, {name}", chosen, "unified", "step")
        return Contender(worker, chosen.batch)

    found = measure("size", contender)
    # How much faster the base is, is what the doubled size costs.
    cost = found["base"].speed_over(found[size]) if "base" in found else None
    benchmark.extra_info.update(kind="double", what=size, cost=cost, **found[size].extra_info())
