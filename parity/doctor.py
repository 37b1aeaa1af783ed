"""The instrument checks itself before every verdict; if that fails, neither parity nor divergence is claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parity.census import PatchCensus
from parity.checks.base import describe_error
from parity.checks.gradients import flat_step, step_inputs
from parity.compare import SEMANTIC_FACTOR, Noise, exact, judged
from parity.doctor_data import examine_crops, examine_orders
from parity.doctor_forms import examine_attention, examine_ibot
from parity.judge import perturbed, promoted
from parity.oracle import Float64Oracle
from parity.recipes import Recipe, select_recipes
from parity.results import Comparison

if TYPE_CHECKING:
    from parity.run import Options

__all__ = ["doctor", "examine"]

_AMPLIFICATION = 1e7
_CANARY = 1e-6


def doctor(options: Options) -> list[Comparison]:
    """Open the reference that the options name and examine the instrument on the default recipe."""
    from parity.run import opened

    with opened(options) as (_, official):
        return examine(official, select_recipes(("default",), quick=True)[0])


def examine(official: Any, recipe: Recipe) -> list[Comparison]:
    """Return the self-checks, each of which must pass; a reference that cannot take a step fails the only one.

    Args:
        official: the official stack.
        recipe: a small recipe.
    """
    try:
        return _examine(official, recipe)
    except (Exception, SystemExit) as error:  # whatever an edited reference raises
        return [Comparison("doctor/step", "T0", False, False, note=describe_error(error, "the reference"))]


def _examine(official: Any, recipe: Recipe) -> list[Comparison]:
    """Make the self-checks.

    - repeat: the reference equals itself bit for bit when run twice;
    - traced: it equals itself while the patch census watches;
    - oracle: every float of the fp64 step is float64, down-casts were met and neutralised, and the losses
      agree with fp32 to its accuracy;
    - conditioning: perturbations by 4 units of 2^-53 are not amplified beyond use;
    - canary: one gradient scaled by 1 + 1e-6 is found by every rule that must find it;
    - crops, orders: official's crops and samplers repeat under a seed, see `parity.doctor_data`;
    - attention, ibot: what is used agrees with official's own other forms, see `parity.doctor_forms`.
    """
    config, inputs, batch = step_inputs(official, recipe, "generic")

    def step(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return flat_step(official, config, given, batch, recipe.iteration)

    base, again = step(inputs), step(inputs)
    with PatchCensus() as census:
        traced = step(inputs)
    with Float64Oracle() as oracle:
        base64 = step(promoted(inputs))
    with Float64Oracle():
        moved = step(perturbed(promoted(inputs), 0))
    return [
        _all_equal("repeat", base, again, "the reference run twice"),
        _all_equal("traced", base, traced, f"the reference watched by the census ({sum(census.rows.values())} images)"),
        _oracle(base, base64, oracle.down_casts),
        _conditioning(base64, moved),
        *_canary(base, base64, moved),
        examine_crops(official, recipe.config()),
        examine_orders(official),
        examine_attention(official),
        examine_ibot(official),
    ]


def _all_equal(name: str, left: Mapping[str, Tensor], right: Mapping[str, Tensor], note: str) -> Comparison:
    different = [key for key in left if not exact(key, left[key], right[key]).bitwise]
    passed = not different and bool(left) and left.keys() == right.keys()
    where = f"; differs at {different[0]}" if different else ""
    return Comparison(f"doctor/{name}", "T0", passed, passed, note=f"{note}: {len(left)} tensors{where}")


def _oracle(base: Mapping[str, Tensor], base64: Mapping[str, Tensor], down_casts: int) -> Comparison:
    narrow = [name for name, t in base64.items() if t.is_floating_point() and t.dtype is not torch.float64]
    losses = [name for name in base if name.startswith("losses/")]
    error = max(abs(float(base[n]) - float(base64[n])) / max(abs(float(base64[n])), 1e-6) for n in losses)
    note = f"{down_casts} down-casts neutralised, losses agree with fp32 to {error:.1e}"
    if narrow:
        note += f"; not float64: {narrow[0]}"
    return Comparison("doctor/oracle", "T1", not narrow and down_casts > 0 and error < 1e-4, False, note=note)


def _conditioning(base64: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> Comparison:
    """The largest relative movement of a gradient, in units of the perturbation."""
    unit = 4 * 2.0**-53
    worst, where = 0.0, ""
    for name, value in base64.items():
        size = float(value.square().mean().sqrt()) if value.numel() else 0.0
        if name.startswith(("losses/", "gradients/")) and size > 1e-12:
            factor = Noise.between(moved[name], value).rms / size / unit
            if factor > worst:
                worst, where = factor, name
    passed = 0 < worst < _AMPLIFICATION and math.isfinite(worst)
    note = f"perturbations grow at most {worst:.0f} times ({where}), allowed {_AMPLIFICATION:.0e}"
    return Comparison("doctor/conditioning", "T1", passed, False, note=note)


def _canary(base: Mapping[str, Tensor], base64: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> list[Comparison]:
    """A fault small enough to be missed, put into the largest gradient: T0 and T1 must both see it."""
    name = max((n for n in base if n.startswith("gradients/")), key=lambda n: float(base64[n].square().mean()))
    noise = Noise.between(moved[name], base64[name])
    seen = {
        "T0": not exact(name, base[name], base[name] * (1 + _CANARY)).passed,
        "T1": not judged(name, "T1", base64[name], base64[name] * (1 + _CANARY), noise, SEMANTIC_FACTOR).passed,
        "T1, unharmed": judged(name, "T1", base64[name], moved[name], noise, SEMANTIC_FACTOR).passed,
    }
    return [
        Comparison(f"doctor/canary {rule}", "T0", found, False, note=f"{name} times 1 + {_CANARY:g}")
        for rule, found in seen.items()
    ]
