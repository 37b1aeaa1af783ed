from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from parity import doctor as doctor_module
from parity.adapters.official import OfficialStack
from parity.compare import Noise, exact, judged
from parity.doctor import doctor, examine
from parity.recipes import RECIPES
from parity.results import Comparison
from parity.run import Options

NAMES = [
    "repeat",
    "traced",
    "oracle",
    "conditioning",
    "canary T0",
    "canary T1",
    "canary T1, unharmed",
    "crops",
    "orders",
    "attention",
    "ibot",
]
RECIPE = RECIPES[0]


class Altered:
    """Official's stack with another step."""

    def __init__(self, official: OfficialStack, change: Any) -> None:
        self._official = official
        self._change = change
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._official, name)

    def training_step(self, config: Any, state: Mapping[str, Tensor], *args: Any) -> dict[str, dict[str, Any]]:
        """Official's step, changed by a function of (result, number of the call)."""
        self.calls += 1
        result = self._official.training_step(config, state, *args)
        self._change(result, self.calls)
        return result


def failed(found: list[Comparison]) -> list[str]:
    """Return what failed, without the common prefix."""
    return [c.name.removeprefix("doctor/") for c in found if not c.passed]


@pytest.mark.parametrize("recipe", RECIPES[:2], ids=lambda r: r.name)
def test_official_code_passes_every_self_check(official_stack: OfficialStack, recipe: Any) -> None:
    """Eleven self-checks, and their numbers: images seen, down-casts met, amplification."""
    found = examine(official_stack, recipe)
    assert [c.name for c in found] == [f"doctor/{name}" for name in NAMES]
    assert failed(found) == []
    notes = {c.name.removeprefix("doctor/"): c.note for c in found}
    assert "(21 images)" in notes["traced"]  # 6 global crops through both, 9 local ones through the student
    assert not notes["oracle"].startswith("0 down-casts")
    assert "perturbations grow at most" in notes["conditioning"]
    assert "times 1 + 1e-06" in notes["canary T1"]


def _drifting(result: dict[str, dict[str, Any]], call: int) -> None:
    for value in result["gradients"].values():
        value.mul_(1 + 1e-6 * call)


def test_a_reference_that_does_not_repeat_itself_fails(official_stack: OfficialStack) -> None:
    """Another gradient at every run: nothing that differs from it could be blamed on a subject."""
    found = examine(Altered(official_stack, _drifting), RECIPE)
    assert {"repeat", "traced"} <= set(failed(found))
    assert "differs at gradients/" in found[0].note


def test_a_last_bit_that_moves_is_seen(official_stack: OfficialStack) -> None:
    """One unit in the last place of one loss, in the second run alone."""

    def nudge(result: dict[str, dict[str, Any]], call: int) -> None:
        if call == 2:
            loss = result["losses"]["koleo_loss"]
            result["losses"]["koleo_loss"] = torch.nextafter(loss, loss + 1)

    found = examine(Altered(official_stack, nudge), RECIPE)
    assert failed(found) == ["repeat"]
    assert found[0].note.endswith("differs at losses/koleo_loss")


def test_a_tensor_that_comes_and_goes_is_seen(official_stack: OfficialStack) -> None:
    """A watched run that returns a tensor more is not the same run."""

    def grow(result: dict[str, dict[str, Any]], call: int) -> None:
        if call == 3:
            result["losses"]["extra_loss"] = torch.zeros(())

    assert failed(examine(Altered(official_stack, grow), RECIPE)) == ["traced"]


def test_an_oracle_that_lets_a_down_cast_through_fails(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the neutralised `.float()` nothing was met, and the claim of double precision is void."""

    @contextmanager
    def blind() -> Any:
        yield SimpleNamespace(down_casts=0)

    monkeypatch.setattr(doctor_module, "Float64Oracle", blind)
    found = examine(official_stack, RECIPE)
    assert "oracle" in failed(found)


def _in_float64(result: dict[str, dict[str, Any]]) -> bool:
    return next(iter(result["gradients"].values())).dtype is torch.float64


def test_a_result_that_is_not_float64_fails(official_stack: OfficialStack) -> None:
    """A tensor that left double precision is named."""

    def narrow(result: dict[str, dict[str, Any]], call: int) -> None:
        name = next(iter(result["gradients"]))
        # By way of numpy, which the oracle does not watch.
        result["gradients"][name] = torch.from_numpy(result["gradients"][name].numpy().astype("float32"))

    found = examine(Altered(official_stack, narrow), RECIPE)
    assert "oracle" in failed(found)
    assert "not float64: gradients/" in found[2].note


def test_an_oracle_that_changes_the_result_fails(official_stack: OfficialStack) -> None:
    """Losses in double and single precision must be of one computation."""

    def other(result: dict[str, dict[str, Any]], call: int) -> None:
        if _in_float64(result):
            result["losses"]["ibot_loss"] = result["losses"]["ibot_loss"] * 1.01

    found = examine(Altered(official_stack, other), RECIPE)
    assert failed(found) == ["oracle"]
    assert "losses agree with fp32 to 9.9e-03" in found[2].note


def test_an_ill_conditioned_state_fails(official_stack: OfficialStack) -> None:
    """Where a perturbation of 4 units grows ten million times, no rule could tell noise from a fault."""

    def amplify(result: dict[str, dict[str, Any]], call: int) -> None:
        if _in_float64(result) and call == 5:
            gradient = result["gradients"]["backbone.cls_token"]
            gradient.mul_(1 + 1e-3)

    found = examine(Altered(official_stack, amplify), RECIPE)
    assert "conditioning" in failed(found)
    assert "(gradients/backbone.cls_token), allowed 1e+07" in found[3].note


def test_a_reference_that_perturbations_do_not_move_fails(official_stack: OfficialStack) -> None:
    """No noise at all means that the perturbation did not arrive."""
    kept: dict[str, dict[str, Any]] = {}

    def freeze(result: dict[str, dict[str, Any]], call: int) -> None:
        if call == 4:
            kept.update({part: dict(values) for part, values in result.items()})
        elif call == 5:
            result.update(kept)

    found = examine(Altered(official_stack, freeze), RECIPE)
    assert "conditioning" in failed(found)


def test_a_canary_that_no_rule_sees_fails(official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that pass everything are found out: by T0 here, and by T1 below."""
    monkeypatch.setattr(doctor_module, "exact", lambda name, left, right: exact(name, left, left))
    assert failed(examine(official_stack, RECIPE)) == ["canary T0"]


def test_a_canary_that_t1_overlooks_fails(official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that forgives everything forgives the canary."""
    monkeypatch.setattr(doctor_module, "SEMANTIC_FACTOR", 1e12)
    assert failed(examine(official_stack, RECIPE)) == ["canary T1"]


def test_a_rule_that_accuses_the_reference_fails(
    official_stack: OfficialStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perturbed official results must pass T1: a rule without room for noise accuses them."""
    monkeypatch.setattr(
        doctor_module,
        "judged",
        lambda name, tier, base, mine, noise, factor: judged(name, tier, base, mine, Noise(0.0, 0.0), 1e-3),
    )
    assert failed(examine(official_stack, RECIPE)) == ["canary T1, unharmed"]


def test_a_reference_that_raises_is_one_failed_self_check(official_stack: OfficialStack) -> None:
    """The exception and its line are told; no self-check passes beside it."""

    def broken(result: dict[str, dict[str, Any]], call: int) -> None:
        raise RuntimeError("edited away")

    (only,) = examine(Altered(official_stack, broken), RECIPE)
    assert (only.name, only.passed, only.bitwise) == ("doctor/step", False, False)
    assert only.note.startswith("the reference: RuntimeError: edited away at ")
    assert "test_doctor.py" in only.note


def test_a_missing_loss_is_one_failed_self_check(official_stack: OfficialStack) -> None:
    """A reference without any loss cannot be examined."""
    found = examine(Altered(official_stack, lambda result, call: result["losses"].clear()), RECIPE)
    assert failed(found) == ["step"]


def test_the_command_opens_what_the_options_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m parity doctor` examines the default recipe of the reference that it is given."""
    seen: dict[str, Any] = {}

    def note(official: Any, recipe: Any) -> list[Comparison]:
        seen.update(root=official.root, recipe=recipe.name)
        return [Comparison("doctor/repeat", "T0", True, True)]

    monkeypatch.setattr(doctor_module, "examine", note)
    assert [c.name for c in doctor(Options(reference="pypi"))] == ["doctor/repeat"]
    assert seen["recipe"] == "default"
    assert (seen["root"] / "dinov2").is_dir()


def test_a_reference_that_exits_is_one_failed_self_check(official_stack: OfficialStack) -> None:
    """`sys.exit(0)` inside the step is told with its line; it neither ends the process nor passes."""

    def leave(result: dict[str, dict[str, Any]], call: int) -> None:
        raise SystemExit(0)

    (only,) = examine(Altered(official_stack, leave), RECIPE)
    assert (only.name, only.passed) == ("doctor/step", False)
    assert only.note.startswith("the reference: SystemExit: 0 at ")
    assert "test_doctor.py" in only.note
