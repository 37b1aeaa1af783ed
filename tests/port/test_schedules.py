from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from port.config import apply_scaling_rules, load_config, load_recipe
from port.optim import CosineScheduler, apply_optim_scheduler, build_schedulers


def test_warm_up_then_cosine() -> None:
    """3 steps of warm-up to 1, then 4 of half a cosine to 0, by hand; the peak comes twice (Q42)."""
    schedule = CosineScheduler(base_value=1.0, final_value=0.0, total_iters=7, warmup_iters=3)
    r = math.sqrt(0.5)
    expected = [0.0, 0.5, 1.0, 1.0, 0.5 * (1 + r), 0.5, 0.5 * (1 - r)]
    np.testing.assert_allclose(schedule.schedule, expected, rtol=0, atol=1e-15)


def test_freeze_comes_first() -> None:
    """Frozen iterations are zeros before the warm-up."""
    schedule = CosineScheduler(2.0, 1.0, 6, warmup_iters=2, start_warmup_value=0.5, freeze_iters=3)
    assert schedule.schedule.tolist() == [0.0, 0.0, 0.0, 0.5, 2.0, 2.0]


def test_the_final_value_is_only_reached_after_the_end() -> None:
    """The last scheduled value is not the final one; every later iteration is (Q42)."""
    schedule = CosineScheduler(1.0, 0.25, 10)
    assert schedule[9] > 0.25
    assert schedule[10] == schedule[10**9] == 0.25


def test_a_value_is_a_python_float() -> None:
    """A NumPy scalar would not survive every config or JSON writer."""
    assert type(CosineScheduler(1.0, 0.5, 4)[0]) is float


@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(1, 50))
def test_the_cosine_stays_between_its_ends(base: float, final: float, total: int) -> None:
    """It starts at the base value and never leaves the interval."""
    values = CosineScheduler(base, final, total).schedule
    assert len(values) == total
    assert values[0] == pytest.approx(base, abs=1e-12)
    assert (values >= min(base, final) - 1e-12).all()
    assert (values <= max(base, final) + 1e-12).all()


def test_a_warm_up_longer_than_the_run_is_an_error() -> None:
    """Official fails an assertion; here the numbers are named."""
    with pytest.raises(ValueError, match="= 11, expected at most total_iters = 10"):
        CosineScheduler(1.0, 0.0, 10, warmup_iters=8, freeze_iters=3)


def test_a_warm_up_as_long_as_the_run_is_allowed() -> None:
    """The teacher temperature's schedule is all warm-up, without a warning about 0 / 0."""
    assert CosineScheduler(0.07, 0.07, 2, warmup_iters=2, start_warmup_value=0.04).schedule.tolist() == [0.04, 0.07]


def test_the_default_recipe_s_schedules() -> None:
    """Values at the corners of the default recipe, from official's constants."""
    cfg = load_recipe("vitl16_short")
    schedules = build_schedulers(apply_scaling_rules(cfg, 1024))
    first, warm, last = schedules.at(0), schedules.at(12500), schedules.at(10**6)
    assert (first.lr, first.wd, first.momentum, first.teacher_temp) == pytest.approx((0.0, 0.04, 0.992, 0.04))
    assert warm.lr == schedules.lr[12499] == 0.004
    assert (last.lr, last.wd, last.momentum, last.teacher_temp) == (1e-6, 0.4, 1.0, 0.07)
    assert schedules.teacher_temp.total_iters == 37500
    assert schedules.lr.total_iters == 125000


def test_the_last_layer_is_frozen_for_one_epoch() -> None:
    """Its rate is 0 for 1250 iterations and the common rate afterwards (Q41)."""
    schedules = build_schedulers(apply_scaling_rules(load_recipe("vitl16_short"), 1024))
    assert not schedules.last_layer_lr.schedule[:1250].any()
    assert (schedules.last_layer_lr.schedule[1250:] == schedules.lr.schedule[1250:]).all()
    assert schedules.lr[1249] > 0


def test_an_epoch_is_what_the_configuration_says() -> None:
    """OFFICIAL_EPOCH_LENGTH scales every schedule (Q57)."""
    cfg = load_config(None, ["train.OFFICIAL_EPOCH_LENGTH=2", "optim.epochs=20"])
    schedules = build_schedulers(cfg)
    assert [len(schedule.schedule) for schedule in schedules] == [40, 40, 40, 60, 40]


def test_every_group_gets_its_multiple() -> None:
    """Learning rate and weight decay reach all groups, not only the first (difference 6)."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    constants = [(1.0, 1.0, False), (0.5, 0.0, False), (1.0, 1.0, True)]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "lr_multiplier": lr, "wd_multiplier": wd, "is_last_layer": last}
            for p, (lr, wd, last) in zip(parameters, constants, strict=True)
        ]
    )
    apply_optim_scheduler(optimizer, lr=0.1, wd=0.4, last_layer_lr=0.0)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.1, 0.4), (0.05, 0.0), (0.0, 0.4)]
