from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from forks import Change, Fork, assert_no_alarm, assert_seen, check, fork, hand_written, port
from omegaconf import DictConfig
from torch import Tensor

from parity.adapters.official import OfficialStack
from parity.checks import trajectory
from parity.checks.trajectory import LENGTH, SNAPSHOTS, flat_trajectory, trajectory_inputs
from parity.recipes import RECIPES
from parity.results import CheckResult
from port.losses import DINOLoss, KoLeoLoss
from port.optim import Schedules
from port.step import TrainStep
from port.student_teacher import StudentTeacher

MAIN = ("default", "vitl14", "vitg14")
PARTS = ("parameters", "exp_avg", "exp_avg_sq", "teacher", "centers")


class Remembering:
    """Official code that trains over equal inputs only once: what it returns does not depend on the subject."""

    def __init__(self, official: OfficialStack) -> None:
        self._official = official
        self._made: dict[object, dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._official, name)

    def training_trajectory(
        self, config: DictConfig, state: dict[str, Tensor], batches: list[dict[str, Any]], *rest: Any
    ) -> dict[str, Any]:
        """One call of official `do_train`, or what an equal one returned."""
        tensors = [*state.values(), *(batch["collated_global_crops"] for batch in batches)]
        given = [(tensor.dtype, float(tensor.double().sum())) for tensor in tensors]
        key = repr((config, given, [int(batch["n_masked_patches"]) for batch in batches], rest))
        if key not in self._made:
            self._made[key] = self._official.training_trajectory(config, state, batches, *rest)
        return self._made[key]


@pytest.fixture(scope="module")
def remembering(opened_official_stack: OfficialStack) -> Remembering:
    """One for the whole file."""
    return Remembering(opened_official_stack)


@pytest.fixture
def official(official_stack: OfficialStack, remembering: Remembering, monkeypatch: pytest.MonkeyPatch) -> Remembering:
    """Official code; one replicate measures the noise well enough for faults that are far beyond it."""
    monkeypatch.setattr(trajectory, "_REPLICATES", 1)
    return remembering


def test_the_reference_equals_itself(official: Remembering, official_stack: OfficialStack) -> None:
    """Two calls of official `do_train` over the same batches, by size: the reference claims no bit."""
    result = check(official, official_stack, "trajectory.steps", "default")
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared


@pytest.mark.parametrize("recipe", MAIN)
def test_port_passes(official: Remembering, recipe: str) -> None:
    """Ten steps of each recipe: each loss of each step, and every part after the first, second and tenth."""
    result = check(official, port(), "trajectory.steps", recipe)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared
    assert result.exhibits == []
    names = {c.name for c in result.comparisons}
    for state in ("init", "generic"):
        for loss in ("dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss", "ibot_loss"):
            assert {f"{state}/step {step}/losses/{loss}" for step in range(10)} <= names
        for part in PARTS:
            seen = {int(m[1]) for n in names if (m := re.match(rf"{state}/step (\d+)/{part}/", n))}
            assert seen == {0, 1, 9}, (state, part)
    tiers = {(c.name.split("/")[0], c.tier) for c in result.comparisons}
    assert tiers == {("init", "T0"), ("generic", "T1")}


def test_the_run_is_a_hundred_steps_long(official: Remembering) -> None:
    """Without `--quick` `port` is compared over a hundred steps, to the end of every schedule, in fp32 and in fp64."""
    result = check(official, port(), "trajectory.steps", "default", quick=False)
    assert_no_alarm(result)
    assert result.bitwise_equal == result.compared
    assert (LENGTH, SNAPSHOTS) == (100, (0, 1, 9, 49, 59, 99))
    for state in ("init", "generic"):
        found = [re.match(rf"{state}/step (\d+)/(losses|parameters)/", c.name) for c in result.comparisons]
        assert {int(m[1]) for m in found if m and m[2] == "losses"} == set(range(100)), state
        assert {int(m[1]) for m in found if m and m[2] == "parameters"} == {0, 1, 9, 49, 59, 99}, state


@pytest.mark.parametrize("steps", [10, 100])
def test_every_schedule_ends_inside_the_training(official: Remembering, steps: int) -> None:
    """The last layer is released, warm-ups end, and the cosine of the rate is nearly down at the last step."""
    config, _, masks = trajectory_inputs(official, RECIPES[0], "generic", steps)
    schedules = official.schedules(config)
    assert len(masks) == len(schedules["lr"]) == steps
    tenth = steps // 10
    assert not schedules["last_layer_lr"][: 2 * tenth].any()
    assert schedules["last_layer_lr"][2 * tenth :].all()
    assert schedules["lr"].argmax() == 2 * tenth - 1
    assert schedules["lr"][-1] < 0.1 * schedules["lr"].max()
    assert len(schedules["teacher_temp"]) == 4 * tenth


def test_masks_differ_from_step_to_step(official: Remembering) -> None:
    """Half of the six crops, sometimes all or one; none only under Sinkhorn, where no centre can become NaN."""
    for recipe, expected in ((RECIPES[0], {1, 3, 6}), (RECIPES[1], {0, 1, 3, 6})):
        _, inputs, masks = trajectory_inputs(official, recipe, "generic", 20)
        assert {int(m["collated_masks"].any(-1).sum()) for m in masks} == expected, recipe.name
        assert len({int(m["n_masked_patches"]) for m in masks}) > 5
        assert not any("_crops" in name for m in masks for name in m)
        first, eleventh = (inputs[f"{place} collated_global_crops"] for place in (0, 9))
        assert first.shape == eleventh.shape
        assert not torch.equal(first, eleventh)


def _clipped(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that notes, for each submodule of each step of `port`, whether its norm exceeds the bound."""
    seen: list[bool] = []
    clip = TrainStep._clip

    def noting(self: TrainStep) -> None:
        clip(self)
        seen.extend(bool(norm > self.clip_grad) for norm in self.gradient_norms.values())

    monkeypatch.setattr(TrainStep, "_clip", noting)
    return seen


def test_clipping_acts_in_some_steps(official: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    """At official's bound of 3 some norms are beyond it and some are not."""
    seen = _clipped(monkeypatch)
    config, inputs, masks = trajectory_inputs(official, RECIPES[0], "generic", 10)
    flat_trajectory(port(), config, inputs, masks)
    assert config.optim.clip_grad == 3.0
    assert set(seen) == {True, False}


def _in_step(change: Callable[[TrainStep], None]) -> Change:
    """Change each step object of `port` before it is used."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        init = TrainStep.__init__

        def faulty(self: TrainStep, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            change(self)

        monkeypatch.setattr(TrainStep, "__init__", faulty)

    return patch


def _keeps_gradients(step: TrainStep) -> None:
    step.optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign] # the fault


def _forgets_moments(step: TrainStep) -> None:
    """AdamW starts anew in each step; the snapshot after the first shows nothing."""
    step.optimizer.register_step_pre_hook(lambda optimizer, *_: optimizer.state.clear())


def _counts_no_steps(step: TrainStep) -> None:
    """The bias correction is always the first step's."""

    def first(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for state in optimizer.state.values():
            state["step"].zero_()

    step.optimizer.register_step_pre_hook(first)


def _starts_anew(at: int) -> Change:
    """AdamW forgets everything once, as after a resume without its state."""

    def change(step: TrainStep) -> None:
        calls = itertools.count()

        def forget(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if next(calls) == at:
                optimizer.state.clear()

        step.optimizer.register_step_pre_hook(forget)

    return _in_step(change)


def _does_not_clip(step: TrainStep) -> None:
    step.clip_grad = 0.0


def _teacher_first(step: TrainStep) -> None:
    """The teacher follows the student before the optimizer's step; the very first step has a rate of 0."""
    optimize, update, iterations = step._optimize, step.model.update_teacher, itertools.count()

    def faulty() -> None:
        update(step.schedules.at(next(iterations)).momentum)
        optimize()

    step._optimize = faulty  # type: ignore[method-assign] # the fault
    step.model.update_teacher = lambda m, keep=(): None  # type: ignore[method-assign] # the fault


def _centre_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    update = DINOLoss.update_center

    def faulty(self: DINOLoss, output: Tensor) -> None:
        update(self, output)
        self.apply_center_update()
        update(self, output)

    monkeypatch.setattr(DINOLoss, "update_center", faulty)


def _pending_centre_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets do not wait for the update that is pending (Q14): the next one replaces it."""

    def faulty(self: DINOLoss, output: Tensor, teacher_temp: float) -> Tensor:
        return torch.softmax((output - self.center) / teacher_temp, dim=-1)

    monkeypatch.setattr(DINOLoss, "softmax_center_teacher", faulty)


def _schedules(change: Callable[[int], int]) -> Change:
    """Read every schedule at another iteration."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        at = Schedules.at
        monkeypatch.setattr(Schedules, "at", lambda self, i: at(self, change(i)))

    return patch


def _schedule(name: str, change: Callable[[int], int]) -> Change:
    """Read one schedule at another iteration than the others."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        at = Schedules.at
        monkeypatch.setattr(
            Schedules, "at", lambda self, i: at(self, i)._replace(**{name: getattr(at(self, change(i)), name)})
        )

    return patch


def _last_layer_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads' last layers learn from the start, at the rate of all others."""
    at = Schedules.at
    monkeypatch.setattr(Schedules, "at", lambda self, i: at(self, i)._replace(last_layer_lr=at(self, i).lr))


def _teacher_every_other_step(monkeypatch: pytest.MonkeyPatch) -> None:
    update, calls = StudentTeacher.update_teacher, [0]

    def faulty(self: StudentTeacher, m: float, keep: Collection[str]) -> None:
        calls[0] += 1
        if calls[0] % 2:
            update(self, m, keep)

    monkeypatch.setattr(StudentTeacher, "update_teacher", faulty)


def _frozen_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    """The centre is updated once and then stays: one step is right."""
    update, done = DINOLoss.update_center, set[int]()

    def faulty(self: DINOLoss, output: Tensor) -> None:
        if id(self) not in done:
            update(self, output)
        done.add(id(self))

    monkeypatch.setattr(DINOLoss, "update_center", faulty)


def _stale(iteration: int) -> int:
    return max(iteration - 1, 0)


@pytest.mark.parametrize(
    ("change", "begins", "first", "recipe"),
    [
        (_in_step(_keeps_gradients), 1, "parameters/", "default"),
        (_in_step(_keeps_gradients), 1, "parameters/", "vitl14"),
        (_in_step(_forgets_moments), 1, "parameters/", "default"),
        (_in_step(_counts_no_steps), 1, "parameters/", "vitl14"),
        (_starts_anew(5), 6, "losses/", "default"),
        (_in_step(_does_not_clip), 0, "exp_avg/", "default"),
        (_in_step(_teacher_first), 1, "teacher/", "default"),
        (_in_step(_teacher_first), 1, "teacher/", "vitl14"),
        (_centre_twice, 0, "centers/dino_loss.center", "default"),
        (_pending_centre_lost, 1, "losses/dino_local_crops_loss", "default"),
        (_frozen_centre, 1, "centers/dino_loss.center", "default"),
        (_schedules(_stale), 1, "losses/dino_local_crops_loss", "default"),
        (_schedules(_stale), 1, "losses/dino_local_crops_loss", "vitl14"),
        (_schedule("lr", _stale), 1, "parameters/", "default"),
        (_schedule("wd", _stale), 1, "parameters/", "default"),
        (_schedule("momentum", _stale), 1, "teacher/", "default"),
        (_schedule("teacher_temp", _stale), 1, "losses/dino_local_crops_loss", "vitl14"),
        (_schedule("last_layer_lr", _stale), 3, "losses/", "default"),
        (_last_layer_free, 1, "parameters/student.dino_head.last_layer", "default"),
        (_last_layer_free, 1, "parameters/student.dino_head.last_layer", "vitl14"),
        (_teacher_every_other_step, 1, "teacher/", "vitl14"),
    ],
)
def test_a_fault_is_named_with_the_step_at_which_it_begins(
    official: Remembering, monkeypatch: pytest.MonkeyPatch, change: Change, begins: int, first: str, recipe: str
) -> None:
    """By size alone, in the first tensor that was compared after it."""
    change(monkeypatch)
    result = check(official, fork(), "trajectory.steps", recipe)
    assert_seen(result, f"^generic/step {begins}/{first}")
    (table,) = result.exhibits
    where = "growth of the difference, in float64 from the generic state: it begins at step"
    assert table.title.startswith(f"{where} {begins}, {first}")
    assert (table.rows[0]["step"], table.rows[-1]["step"]) == (begins, 9)


@pytest.mark.parametrize("change", [_in_step(_keeps_gradients), _in_step(_forgets_moments), _frozen_centre])
def test_one_step_does_not_show_them(official: Remembering, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """The same faults pass the comparison of a single step: that is what this family is for."""
    change(monkeypatch)
    assert_no_alarm(check(official, fork(), "gradients.step", "default"))


@pytest.mark.parametrize("recipe", MAIN)
def test_hand_written_mathematics_raise_no_alarm(
    official: Remembering, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Losses, attention and LayerNorm in other operations: rounding that ten steps carry on stays within bounds."""
    monkeypatch.setattr(trajectory, "_REPLICATES", 2)
    hand_written(monkeypatch)
    result = check(official, fork(), "trajectory.steps", recipe)
    assert_no_alarm(result)
    assert result.bitwise_equal < result.compared / 2


def test_a_bit_is_seen_where_bits_are_claimed(official: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaling one term by some units in the last place, at the fifth step alone, is named as that step."""
    koleo, calls = KoLeoLoss.forward, [0]

    def faulty(self: KoLeoLoss, tokens: Tensor, eps: float = 1e-8) -> Tensor:
        calls[0] += 1
        loss: Tensor = koleo(self, tokens, eps)
        return loss * (1 + 2**-20) if calls[0] == 9 else loss

    monkeypatch.setattr(KoLeoLoss, "forward", faulty)
    result = check(official, port(), "trajectory.steps", "default", to_first=True)
    assert_seen(result, "^init/step 4/losses/koleo_loss$")


class Fewer(Fork):
    """A stack that returns less than it is asked for."""

    def __init__(self, change: Callable[[dict[str, Any]], object]) -> None:
        super().__init__()
        self.change = change

    def training_trajectory(self, *args: Any) -> dict[str, Any]:
        """What `port` returns, changed."""
        result = super().training_trajectory(*args)
        self.change(result)
        return result


def _without_snapshots(result: dict[str, Any]) -> None:
    del result["snapshots"]


def _without_a_centre(result: dict[str, Any]) -> None:
    del result["snapshots"][9]["centers"]["dino_loss.center"]


def _one_loss_less(result: dict[str, Any]) -> None:
    del result["losses"][3]["koleo_loss"]


def _one_step_less(result: dict[str, Any]) -> None:
    result["losses"].pop()


def _made_of(change: Callable[[dict[str, Any]], object], official: Remembering) -> CheckResult:
    return check(official, Fewer(change), "trajectory.steps", "vitl14")


def test_losses_alone_are_compared_in_part(official: Remembering) -> None:
    """The report says which parts the subject does not return."""
    result = _made_of(_without_snapshots, official)
    assert result.status == "passed"
    assert result.reason == "training_trajectory returns no parameters, exp_avg, exp_avg_sq, teacher, centers"
    assert {c.name.split("/")[2] for c in result.comparisons} == {"losses"}


@pytest.mark.parametrize(
    ("change", "name"),
    [(_without_a_centre, "step 9/centers/dino_loss.center"), (_one_loss_less, "step 3/losses/koleo_loss")],
)
def test_what_is_missing_of_a_part_is_a_failure(
    official: Remembering, change: Callable[[dict[str, Any]], object], name: str
) -> None:
    """A part that is offered is offered whole."""
    result = _made_of(change, official)
    assert_seen(result, f"^generic/{name}$")
    assert [c.note for c in result.diverged] == ["the subject lacks it"]


def test_too_few_steps_are_an_error(official: Remembering) -> None:
    """A training that stopped early has not been compared."""
    result = _made_of(_one_step_less, official)
    assert result.status == "error"
    assert "training_trajectory returned as 'losses' 9 of them, expected a list of 10 mappings" in result.reason


def test_a_subject_without_the_capability_is_not_run(official: Remembering) -> None:
    """Nothing is inferred from a single step."""
    subject = fork()
    subject.training_trajectory = None  # type: ignore[assignment,method-assign] # not offered
    result = check(official, subject, "trajectory.steps", "default")
    assert (result.status, result.reason) == ("not_run", "fork does not offer training_trajectory")
