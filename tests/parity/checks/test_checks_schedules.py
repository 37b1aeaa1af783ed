from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from forks import assert_no_alarm, assert_seen, check, fork, port
from omegaconf import DictConfig

from parity.adapters.official import OfficialStack

Curves = dict[str, np.ndarray]
RECIPES = ("default", "vitl14", "vitg14")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_reference_and_port_pass_bit_for_bit(official_stack: OfficialStack, recipe: str) -> None:
    """Five schedules at two lengths, in blocks of steps."""
    for subject in (official_stack, port()):
        result = check(official_stack, subject, "schedules.every_step", recipe)
        assert_no_alarm(result)
        assert result.bitwise_equal == result.compared
    names = {c.name.rsplit("/", 1)[0] for c in result.comparisons}
    curves = ("lr", "wd", "momentum", "teacher_temp", "last_layer_lr")
    assert names == {f"{length}/{curve}" for length in ("small", "real") for curve in curves}


def test_the_real_length_is_official_s(official_stack: OfficialStack) -> None:
    """100 epochs of 1250 steps in the short recipe, 500 in the long ones: the last step is compared."""
    for recipe, steps in (("default", 125_000), ("vitl14", 625_000)):
        result = check(official_stack, port(), "schedules.every_step", recipe)
        ends = [c.name for c in result.comparisons if c.name.startswith("real/lr/")]
        assert ends[-1].endswith(f"-{steps - 1}"), ends[-1]


def altered(change: Callable[[Curves, DictConfig], Any]) -> Any:
    """A fork whose schedules were changed in place."""

    def schedules(config: DictConfig) -> Curves:
        curves = port().schedules(config)
        change(curves, config)
        return curves

    return fork(schedules=schedules)


def _steps(config: DictConfig, epochs: int) -> int:
    return int(epochs * config.train.OFFICIAL_EPOCH_LENGTH)


def _longer_warmup(curves: Curves, config: DictConfig) -> None:
    warmup = _steps(config, config.optim.warmup_epochs) + 1
    curves["lr"][:warmup] = np.linspace(0, curves["lr"].max(), warmup)


def _scaled_end(curves: Curves, config: DictConfig) -> None:
    lr, factor = curves["lr"], curves["lr"].max() / config.optim.base_lr
    low, warmup = config.optim.min_lr, _steps(config, config.optim.warmup_epochs)
    share = (lr[warmup:] - low) / (lr.max() - low)
    lr[warmup:] = low * factor + share * (lr.max() - low * factor)


def _linear_scaling(curves: Curves, config: DictConfig) -> None:
    curves["lr"] *= math.sqrt(config.train.batch_size_per_gpu / 1024)


def _straight_decay(curves: Curves, config: DictConfig) -> None:
    wd = curves["wd"]
    wd[:] = np.linspace(wd[0], config.optim.weight_decay_end, len(wd))


def _end_reached(curves: Curves, config: DictConfig) -> None:
    wd, end = curves["wd"], config.optim.weight_decay_end
    wd[:] = end + 0.5 * (wd[0] - end) * (1 + np.cos(np.pi * np.arange(len(wd)) / (len(wd) - 1)))


def _constant_momentum(curves: Curves, config: DictConfig) -> None:
    curves["momentum"][:] = config.teacher.momentum_teacher


def _shifted_momentum(curves: Curves, config: DictConfig) -> None:
    curves["momentum"] -= 1e-9


def _constant_temperature(curves: Curves, config: DictConfig) -> None:
    curves["teacher_temp"][:] = config.teacher.teacher_temp


def _trained_last_layer(curves: Curves, config: DictConfig) -> None:
    curves["last_layer_lr"] = curves["lr"].copy()


def _one_epoch_less(curves: Curves, config: DictConfig) -> None:
    curves["lr"] = curves["lr"][: -_steps(config, 1)]


def _single_precision(curves: Curves, config: DictConfig) -> None:
    curves["lr"] = curves["lr"].astype(np.float32)


@pytest.mark.parametrize(
    ("change", "first", "finding", "words"),
    [
        (_longer_warmup, "^small/lr/steps 0-", "", "lr parts from official's at step 1"),
        (_scaled_end, "^small/lr/", "", "lr parts from official's at step"),
        (_linear_scaling, "^small/lr/", "", "times official's at every step"),
        (_straight_decay, "^small/wd/", "", "wd parts from official's at step 1"),
        (_end_reached, "^small/wd/", "", "wd parts from official's"),
        (_constant_momentum, "^small/momentum/", "", "momentum parts from official's"),
        (_shifted_momentum, "^small/momentum/", "", "momentum is 1 times official's at every step"),
        (_constant_temperature, "^small/teacher_temp/", "", "teacher_temp parts from official's at step 0"),
        (_trained_last_layer, "^small/last_layer_lr/", "0007", "the last layer trains during the first"),
        (_one_epoch_less, "^small/lr/length", "", "123750 steps, official 125000"),
        (_single_precision, "^small/lr/", None, ""),
    ],
)
def test_a_faulty_schedule_is_seen(
    official_stack: OfficialStack, change: Callable[[Curves, DictConfig], Any], first: str, finding: str, words: str
) -> None:
    """Warm-up, ends, scaling, shape, freeze, length and precision; the first block of steps is named."""
    assert_seen(check(official_stack, altered(change), "schedules.every_step", "default"), first, finding, words)


def test_a_missing_schedule_is_a_divergence(official_stack: OfficialStack) -> None:
    """A stack without a schedule for the last layer lacks it at both lengths."""
    result = check(
        official_stack, altered(lambda curves, _: curves.pop("last_layer_lr")), "schedules.every_step", "default"
    )
    assert_seen(result, "^small/last_layer_lr$")
    assert [c.name for c in result.diverged] == ["small/last_layer_lr", "real/last_layer_lr"]


def _cosine(start: float, end: float, total: int, warmup: int = 0) -> np.ndarray:
    """The same curve by scalars: half angles instead of a cosine, a product instead of `linspace`."""
    rise = [start * i / (warmup - 1) for i in range(warmup)]
    length = total - warmup
    fall = [end + (start - end) * math.cos(0.5 * math.pi * i / length) ** 2 for i in range(length)]
    return np.array(rise + fall)


def _rewritten(curves: Curves, config: DictConfig) -> None:
    optim, total = config.optim, len(curves["lr"])
    warmup = _steps(config, optim.warmup_epochs)
    peak = optim.base_lr * (config.train.batch_size_per_gpu / 1024) ** 0.5
    curves["lr"] = _cosine(peak, optim.min_lr, total, warmup)
    curves["wd"] = _cosine(optim.weight_decay, optim.weight_decay_end, total)
    curves["momentum"] = _cosine(config.teacher.momentum_teacher, config.teacher.final_momentum_teacher, total)


@pytest.mark.parametrize("recipe", RECIPES)
def test_rewritten_schedules_raise_no_alarm(official_stack: OfficialStack, recipe: str) -> None:
    """Equal to twelve digits is equal where a stack claims no bit; port itself would have to keep every bit."""
    subject = altered(_rewritten)
    assert_no_alarm(check(official_stack, subject, "schedules.every_step", recipe))
    subject.claims_bitwise = True
    assert check(official_stack, subject, "schedules.every_step", recipe).status == "diverged"


def test_defaults_agree_key_by_key(official_stack: OfficialStack) -> None:
    """Official's default configuration has 85 values, and port's has the same."""
    for subject in (official_stack, port()):
        result = check(official_stack, subject, "schedules.defaults")
        assert_no_alarm(result)
        assert result.bitwise_equal == result.compared == 85


def _defaults(change: Callable[[dict[str, Any]], Any]) -> Any:
    config = copy.deepcopy(port().default_config())
    change(config)
    return fork(default_config=lambda: config)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: c["optim"].update(clip_grad=1.0), "optim.clip_grad"),
        (lambda c: c["student"].pop("layerscale"), "student.layerscale"),
        (lambda c: c["student"].update(qkv_bias=1), "student.qkv_bias"),
        (lambda c: c["ibot"].update(mask_ratio_min_max=[0.1, 0.45]), "ibot.mask_ratio_min_max"),
        (lambda c: c["train"].update(centering="sinkhorn"), "train.centering"),
        (lambda c: c["crops"].update(global_crops_scale=[0.32]), "crops.global_crops_scale"),
    ],
)
def test_one_other_default_is_the_only_one_accused(official_stack: OfficialStack, change: Any, key: str) -> None:
    """Another number, type, list or word, or a key that is missing."""
    result = check(official_stack, _defaults(change), "schedules.defaults")
    assert_seen(result, f"^default/{key}$")
    assert len(result.diverged) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(quirks={"empty_mask_center": "official"}),
        lambda c: c["optim"].update(epochs=100.0, clip_grad=3),
        lambda c: c["ibot"].update(mask_ratio_min_max=(0.1, 0.5)),
    ],
)
def test_other_spellings_of_the_defaults_raise_no_alarm(official_stack: OfficialStack, change: Any) -> None:
    """Keys beside official's, 100.0 for 100, a tuple for a list."""
    assert_no_alarm(check(official_stack, _defaults(change), "schedules.defaults"))
